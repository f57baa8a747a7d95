"""Members and non-members of a model that was trained elsewhere, each in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.checks import same_count, to_inputs, to_labels
from dptrain.data.files import read_npz
from dptrain.data.splits import assemble

FEWEST = 8  # non-members: some to compare members with, some to test on, some for the adversary


@dataclass(frozen=True, kw_only=True)
class MemberFiles:
    """Two npz files, each with `images` (N, H, W[, C]) and `labels` (N,): what was trained on, what was not.

    For `task=audit`: members stand for the training records, and of the non-members half are held
    out and half are to test on. Both must be drawn alike; where they differ in anything but membership
    an attack may read that difference. Images are uint8, or floats in `bounds`.
    """

    members: str
    non_members: str
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    bounds: Sequence[float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise ConfigError(
                f"data.bounds={list(self.bounds)} must be two numbers, the lower first; e.g. [0, 1]"
            )

    def load(self, rng: torch.Generator) -> Splits:
        members, others = self._records(self.members), self._records(self.non_members)
        if len(others) < FEWEST:
            raise DataError(
                f"{self.non_members} holds {len(others)} records: give at least {FEWEST} non-members"
            )
        order = torch.randperm(len(others), generator=rng)
        half = len(others) // 2
        return assemble(
            name=Path(self.members).stem,
            source=f"{self.members} and {self.non_members}",
            train=members,
            holdout=others.take(order[:half]),
            test=others.take(order[half:]),
            classes=self.classes,
            mean=self.mean,
            std=self.std,
        )

    def _records(self, path: str) -> Records:
        arrays = read_npz(Path(path).expanduser(), ("images", "labels"))
        low, high = self.bounds
        inputs = to_inputs(arrays["images"], name=f"images of {path}", bounds=(float(low), float(high)))
        labels = to_labels(arrays["labels"], name=f"labels of {path}", num_classes=len(self.classes))
        same_count(inputs, labels, name=f"images of {path}", other="labels")
        return Records(inputs, labels)
