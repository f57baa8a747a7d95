"""Members and non-members of a model that was trained elsewhere, each in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.checks import same_count, to_inputs
from dptrain.data.files import read_npz
from dptrain.data.labels import Target
from dptrain.data.splits import assemble
from dptrain.tasks import MultiLabel, Regression

HALF = 2.0**-12  # to which a float of 16 bits holds numbers up to one
FEWEST = 8  # of either; of non-members some to compare members with, some to test on, some for the adversary


@dataclass(frozen=True, kw_only=True)
class MemberFiles:
    """Two npz files, of what was trained on and what not: `labels` (N,), `images` (N, H, W[, C]) or `inputs`.

    For `task=audit`: members stand for the training records, and of the non-members half are held
    out and half are to test on. Both must be drawn alike; where they differ in anything but membership
    an attack may read that difference. Images are uint8, or floats in `bounds`; `inputs` (N, width) are
    floats in `bounds` that reach the model as they are, and take one constant of `mean` and `std` for all.
    """

    members: str
    non_members: str
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[Any] | None = None  # words or whole numbers
    bounds: Sequence[float] = (0.0, 1.0)
    task: str = "classification"
    target_bounds: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _ = self.target
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise ConfigError(
                f"data.bounds={list(self.bounds)} must be two numbers, the lower first; e.g. [0, 1]"
            )

    @cached_property
    def target(self) -> Target:
        """What labels are declared to be; raises ConfigError."""
        return Target.of(self.task, classes=self.classes, bounds=self.target_bounds)

    def load(self, rng: torch.Generator) -> Splits:
        members, others = self._records(self.members), self._records(self.non_members)
        self._refuse_what_shows_nothing(members, others)
        order = torch.randperm(len(others), generator=rng)
        half = len(others) // 2
        splits = assemble(
            name=Path(self.members).stem,
            source=f"{self.members} and {self.non_members}",
            train=members,
            holdout=others.take(order[:half]),
            test=others.take(order[half:]),
            classes=self.target.classes,
            task=self.target.task,
            mean=self._constants(self.mean, members),
            std=self._constants(self.std, members),
        )
        low, high = self.bounds
        return splits if members.inputs.dim() > 2 else replace(splits, bounds=(float(low), float(high)))

    def _refuse_what_shows_nothing(self, members: Records, others: Records) -> None:
        """Raise DataError where no attack on these could tell who was trained on."""
        for path, records, what in ((self.members, members, "members"), (self.non_members, others, "others")):
            if len(records) < FEWEST:
                raise DataError(f"{path} holds {len(records)} records: give at least {FEWEST} {what}")
        inside, outside = (records.digests()[:, 0] for records in (members, others))
        if bool(torch.isin(outside, inside).all()):
            raise DataError(
                f"data.non_members={self.non_members} holds {len(others)} records, all of which are in "
                f"data.members={self.members} too: give records that the model was not trained on"
            )
        if isinstance(self.target.task, Regression):
            return
        kinds = [len(records.labels.unique(dim=0)) for records in (members, others)]
        if min(kinds) == 1 < max(kinds):
            one, several = (self.members, self.non_members)[:: 1 if kinds[0] == 1 else -1]
            several_labels = isinstance(self.target.task, MultiLabel)
            kind, plural = ("set of labels", "labels") if several_labels else ("class", "classes")
            raise DataError(
                f"{one} holds records of one {kind} alone, and {several} of {max(kinds)}: attacks would tell "
                f"{plural} apart, not who was trained on; give both the same {plural}"
            )

    @staticmethod
    def _constants(values: Sequence[float], records: Records) -> Sequence[float]:
        """One constant a channel, or one for every column of flat inputs."""
        flat = records.inputs.dim() == 2 and len(values) == 1
        return list(values) * records.inputs.shape[1] if flat else values

    def _records(self, path: str) -> Records:
        arrays = read_npz(Path(path).expanduser(), ("labels",), ("images", "inputs"))
        low, high = (float(bound) for bound in self.bounds)
        if "images" in arrays:
            inputs = _of_bytes(to_inputs(arrays["images"], name=f"images of {path}", bounds=(low, high)))
        elif "inputs" in arrays:
            inputs = _rows(arrays["inputs"], name=f"inputs of {path}", bounds=(low, high))
        else:
            raise DataError(f"{path} lacks images and inputs: save one of them beside labels")
        labels = self.target.read(arrays["labels"], name=f"labels of {path}")
        same_count(inputs, labels, name=f"records of {path}", other="labels")
        return Records(inputs, labels)


def _of_bytes(images: Tensor) -> Tensor:
    """Images in (0, 1); where all are bytes that were stored as short floats, exactly those bytes' values.

    Then they are known for the same as those of another file, which holds the bytes.

    >>> _of_bytes(torch.tensor([0.2]).half().float()).item() == (torch.tensor(51) / 255).item()
    True
    """
    levels = (images * 255).round() / 255
    return levels if bool(((images - levels).abs() <= HALF).all()) else images


def _rows(values: np.ndarray, *, name: str, bounds: tuple[float, float]) -> Tensor:
    """Float32 (N, width), from floats in `bounds`; else raises DataError."""
    if values.ndim != 2 or values.dtype.kind not in "fiub" or 0 in values.shape:
        raise DataError(f"{name} is {values.dtype} of shape {values.shape}: store numbers as (N, width)")
    inputs = torch.from_numpy(values.astype(np.float32))
    outside = ~((inputs >= bounds[0]) & (inputs <= bounds[1])).all(1)  # NaN is outside, too
    if bool(outside.any()):
        raise DataError(
            f"record {int(outside.int().argmax())} of {name} holds a value outside "
            f"data.bounds={list(bounds)}: declare the true bounds"
        )
    return inputs
