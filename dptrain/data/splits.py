"""Divides records into train, holdout and test, at random and never through a patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, Sensitive, Splits
from dptrain.data.checks import constants, several_classes


def check_fractions(*, holdout_fraction: float, test_fraction: float) -> None:
    """Raises ConfigError unless both fractions, and what they leave to train on, are in (0, 1)."""
    for key, value in (("holdout_fraction", holdout_fraction), ("test_fraction", test_fraction)):
        if not 0 < value < 1:
            raise ConfigError(f"data.{key}={value} must be in (0, 1); try 0.15")
    if holdout_fraction + test_fraction >= 1:
        raise ConfigError(
            f"data.holdout_fraction={holdout_fraction} and data.test_fraction={test_fraction} leave nothing "
            f"to train on; their sum must be below 1"
        )


def number_groups(names: np.ndarray | Sequence[str]) -> Tensor:
    """Group ids (N,) int64, numbered from 0, from one name or number a record."""
    return torch.from_numpy(np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64).reshape(-1))


def divide(
    groups: Tensor, rng: torch.Generator, *, holdout: float, test: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the train, holdout and test records, each in random order.

    `groups` (N,) says to which patient each record belongs (`torch.arange(N)`: each to its
    own); `holdout` and `test` are fractions of the patients, 0 for a part not wanted. All
    records of a patient go to the same part. Raises DataError if a wanted part stays empty.

    >>> rng = torch.Generator().manual_seed(0)
    >>> parts = divide(torch.tensor([0, 0, 1, 2, 3]), rng, holdout=0.25, test=0.25)
    >>> sorted(torch.cat(parts).tolist())
    [0, 1, 2, 3, 4]
    """
    unique, member_of = groups.unique(return_inverse=True)
    count = len(unique)
    held = _share(holdout, count)
    tested = _share(test, count)
    if held + tested >= count:
        raise DataError(
            f"{count} patients (or records) are too few to divide into train, {held} held out and {tested} "
            f"for testing: add records, or lower data.holdout_fraction and data.test_fraction"
        )
    rank = torch.empty(count, dtype=torch.long)
    rank[torch.randperm(count, generator=rng)] = torch.arange(count)
    place = rank[member_of]
    order = torch.randperm(len(groups), generator=rng)
    place = place[order]
    return (
        order[place >= held + tested],
        order[place < held],
        order[(place >= held) & (place < held + tested)],
    )


def assemble(
    *,
    name: str,
    source: str,
    train: Records,
    holdout: Records,
    test: Records,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    class_prior: Sequence[float] | None = None,
    group_ids: Tensor | None = None,
    holdout_group_ids: Tensor | None = None,
    sensitive: Sequence[Sensitive] = (),
) -> Splits:
    """The Splits, with inputs in (0, 1), once its parts fit together.

    Raises DataError if the parts differ in shape or if there is one class only to train or
    to test on; ConfigError if `mean` or `std` has not one value a channel, or `class_prior` not
    one frequency a class.
    """
    shape = train.shape
    for part, records in (("holdout", holdout), ("test", test)):
        if records.shape != shape:
            raise DataError(
                f"the {part} images of {name} have shape {records.shape} but the training "
                f"images have {shape} (channels, height, width): make them alike"
            )
    several_classes(train, name="training", classes=classes)
    several_classes(test, name="test", classes=classes)
    return Splits(
        name=name,
        source=source,
        train=train,
        holdout=holdout,
        test=test,
        classes=tuple(classes),
        bounds=(0.0, 1.0),
        mean=constants(mean, key="mean", channels=shape[0]),
        std=constants(std, key="std", channels=shape[0]),
        class_prior=_frequencies(class_prior, classes=classes),
        group_ids=group_ids,
        holdout_group_ids=holdout_group_ids,
        sensitive=tuple(sensitive),
    )


def _frequencies(prior: Sequence[float] | None, *, classes: Sequence[str]) -> tuple[float, ...] | None:
    """Declared class frequencies, checked: one a class, above zero, adding up to one."""
    if prior is None:
        return None
    if len(prior) != len(classes) or min(prior) <= 0 or abs(sum(prior) - 1.0) > 0.01:
        raise ConfigError(
            f"data.class_prior={list(prior)} must be {len(classes)} frequencies above 0 that add up to 1, "
            "one a class; or null"
        )
    return tuple(float(share) for share in prior)


def _share(fraction: float, count: int) -> int:
    """How many of `count` a fraction is; a fraction above zero is at least one."""
    return max(1, round(fraction * count)) if fraction > 0 else 0
