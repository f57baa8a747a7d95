"""Divides records into train, holdout and test: each unit by a keyed hash, none divided."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import (
    ConfigError,
    DataError,
    Raw,
    Records,
    Sensitive,
    Splits,
    Task,
    keyed_uniform,
    seed_key,
    stable_ids,
)
from dptrain.data.checks import constants
from dptrain.data.labels import spread

FEWEST_KEY_BYTES = 16
PARTS = ("the training part", "the holdout", "the test part")


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
    """Group ids (N,) int64, from one name or number a record; a group's id does not depend on the others."""
    return stable_ids(np.asarray(names).tolist())


def assignment_key(rng: torch.Generator, split_key: str | None) -> bytes:
    """The key by which units are assigned: what the file `split_key` holds, or what the seed of `rng` gives.

    The seed is public. Where a contributor could know it and choose a record that comes out as she wishes
    (held out, or trained on for certain), name a file that she cannot read.
    """
    if split_key is None:
        return seed_key(rng)
    path = Path(split_key).expanduser()
    if path.exists() and not path.is_file():  # a device may be read without end, and never say the same twice
        raise ConfigError(
            f"data.split_key={split_key} cannot be read (it is no file); name a file of random bytes: "
            "openssl rand -out split.key 32"
        )
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"data.split_key={split_key} cannot be read ({error.strerror}); name a file of random bytes: "
            f"openssl rand -out {split_key} 32"
        ) from error
    if len(secret) < FEWEST_KEY_BYTES:
        raise ConfigError(
            f"data.split_key={split_key} holds {len(secret)} bytes, few enough to try; give it at least "
            f"{FEWEST_KEY_BYTES} random ones: openssl rand -out {split_key} 32"
        )
    return hmac.digest(secret, str(rng.initial_seed()).encode(), "sha256")


def divide(
    records: Records, groups: Tensor | None, key: bytes, *, holdout: float, test: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the train, holdout and test records.

    `groups` (N,) says to which patient each record belongs (None: each is a unit of its own); `holdout`
    and `test` are the chances of a patient to come to that part, 0 for a part not wanted. Each patient, or
    record, is assigned by a hash of its group id, or of its inputs without the label, under `key`: what
    other records there are makes no difference, so that files that differ in one unit give parts that
    differ in that unit. Shares therefore vary a little, and copies of one input come to one part. Parts
    are in an order of the same kind, which does not depend on the file's; if nothing is to be divided,
    nothing is read, and the order is the file's. Raises DataError if a wanted part stays empty.
    """
    if holdout == test == 0:
        return torch.arange(len(records)), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    units = records.digests() if groups is None else groups
    place = keyed_uniform(key, "split", units)
    # Copies of one input may have several labels.
    labels = records.labels
    order = torch.argsort(
        labels if labels.ndim == 1 else labels.unique(dim=0, return_inverse=True)[1], stable=True
    )
    order = order[torch.argsort(keyed_uniform(key, "order", units)[order], stable=True)]
    place = place[order]
    parts = (
        order[place >= holdout + test],
        order[place < holdout],
        order[(place >= holdout) & (place < holdout + test)],
    )
    for name, share, part in zip(PARTS, (1.0, holdout, test), parts, strict=True):
        if share > 0 and len(part) == 0:
            count = len(units.unique(dim=0))
            raise DataError(
                f"{count} patients (or records that differ) are too few to divide: by chance none of them "
                f"came to {name}; add records, choose another seed, or other shares (data.holdout_fraction "
                "and data.test_fraction; of torchvision's sets data.holdout and data.records)"
            )
    return parts


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A source that cuts what parts it was not given from its training records, by a keyed hash of each."""

    holdout_fraction: float = 0.15
    test_fraction: float = 0.15
    class_prior: Sequence[float] | None = None
    group_word: str | None = None  # what a group is called: patient, customer
    split_key: str | None = None

    def __post_init__(self) -> None:
        check_fractions(holdout_fraction=self.holdout_fraction, test_fraction=self.test_fraction)

    def cut(
        self,
        given: Mapping[str, Records],
        groups: Tensor | None,
        held_out_groups: Tensor | None,
        key: bytes,
        *,
        tested_groups: Tensor | None = None,
        subgroups: Mapping[str, Sequence[str]] | None = None,
        **constants: Any,
    ) -> Splits:
        """The splits of the parts `given`, by name: train and, where they need not be cut, val and test.

        `groups` are those of the training records, `held_out_groups` those of the records of val and
        `tested_groups` those of test, None where they are not known, `subgroups` those of test where it is
        given, else of train. `constants` are what else `assemble` takes.
        """
        pool = given["train"]
        train, holdout, test = divide(
            pool,
            groups,
            key,
            holdout=0.0 if "val" in given else self.holdout_fraction,
            test=0.0 if "test" in given else self.test_fraction,
        )
        tested = range(len(given["test"])) if "test" in given else test.tolist()
        held_out = held_out_groups if groups is None or "val" in given else groups[holdout]
        if groups is not None and "test" not in given:
            tested_groups = groups[test]
        return assemble(
            train=pool.take(train),
            holdout=given["val"] if "val" in given else pool.take(holdout),
            test=given["test"] if "test" in given else pool.take(test),
            class_prior=self.class_prior,
            group_ids=None if groups is None else groups[train],
            holdout_group_ids=None if groups is None else held_out,
            test_group_ids=tested_groups,
            group_word=self.group_word,
            subgroups={column: [values[at] for at in tested] for column, values in (subgroups or {}).items()},
            key=key,
            **constants,
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
    task: Task | None = None,
    group_ids: Tensor | None = None,
    holdout_group_ids: Tensor | None = None,
    test_group_ids: Tensor | None = None,
    group_word: str | None = None,
    public: Records | None = None,
    subgroups: Mapping[str, Sequence[str]] | None = None,
    sensitive: Sequence[Sensitive] = (),
    key: bytes | None = None,
    raw: Raw | None = None,
) -> Splits:
    """The Splits, with inputs in (0, 1), once its parts fit together.

    Raises DataError if the parts differ in shape or if there is one label only to train or
    to test on; ConfigError if `mean` or `std` has not one value a channel, or `class_prior` not
    one frequency a class.
    """
    shape = train.shape
    for part, records in (("holdout", holdout), ("test", test), ("public", public)):
        if records is not None and records.shape != shape:
            raise DataError(
                f"the {part} images of {name} have shape {records.shape} but the training "
                f"images have {shape} (channels, height, width): make them alike"
            )
    for part, records in (("training", train), ("test", test)):
        spread(records, name=part, classes=classes, task=task)
    if task is not None and class_prior is not None:
        raise ConfigError(
            f"data.class_prior={list(class_prior)} weighs classes, which labels of {task.name} are not "
            "weighed by; set it to null"
        )
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
        task=task,
        group_ids=group_ids,
        holdout_group_ids=holdout_group_ids,
        test_group_ids=test_group_ids,
        group_word=group_word,
        public=public,
        subgroups={column: tuple(values) for column, values in (subgroups or {}).items()},
        sensitive=tuple(sensitive),
        key=key,
        raw=raw,
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
