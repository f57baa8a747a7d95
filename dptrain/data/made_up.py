"""Splits as a source declares them, of rows that are no record: for whoever plans and may read none."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import Records, Splits, Task
from dptrain.data.splits import assemble


class MadeUp:
    """Rows of numbers in (0, 1) that depend on nothing but their position, each another one."""

    def __init__(self, first: int, count: int, shape: tuple[int, ...]) -> None:
        self.first, self.shape = first, (count, *shape)

    def read(self, indices: Tensor) -> Tensor:
        width = math.prod(self.shape[1:])
        places = (self.first + indices.double()[:, None]) * width + torch.arange(width, dtype=torch.float64)
        return ((places.sin() * 43758.5453) % 1.0).float().view(len(indices), *self.shape[1:])


def declared(
    train: int,
    holdout: int,
    test: int,
    *,
    shape: tuple[int, ...],
    classes: Any,
    task: Task | None = None,
    **constants: Any,
) -> Splits:
    """Splits of so many rows; `constants` are what else `assemble` takes."""

    def rows(first: int, count: int) -> Records:
        labels = torch.arange(count) % len(classes)
        if task is not None and not task.of_classes:
            labels = task.made_up(count, torch.Generator().manual_seed(first))
        return Records(MadeUp(first, count, shape), labels)

    parts: dict[str, Any] = {
        "train": rows(0, train),
        "holdout": rows(train, holdout),
        "test": rows(train + holdout, test),
    }
    return assemble(
        **parts, classes=classes, task=task, source="as declared, no record was read", **constants
    )


def parts_of(train: int, *, holdout: float, test: float) -> tuple[int, int, int]:
    """Training, held-out and test records, where shares of all are held out and tested on.

    >>> parts_of(600, holdout=0.25, test=0.15)
    (600, 250, 150)
    """
    every = train / (1 - holdout - test)
    return train, max(2, round(every * holdout)), max(2, round(every * test))
