"""What labels are declared to be, and stored labels as a task takes them, or one clear error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, Task
from dptrain.data.checks import class_names, several_classes, to_labels
from dptrain.tasks import MultiLabel, Ordinal, Regression

TASKS = ("classification", "multi_label", "ordinal", "regression")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The task that `data.task` names, with the names of classes, or of several labels, or of a number."""

    classes: tuple[str, ...]
    task: Task | None  # None: one of the classes

    @classmethod
    def of(cls, task: str, *, classes: Any, bounds: Any = None, name: str = "value") -> Self:
        """As declared by data.task, data.classes and data.target_bounds; raises ConfigError.

        `name` is that of a number.
        """
        if task not in TASKS:
            raise ConfigError(f"data.task={task} must be one of {', '.join(TASKS)}")
        if task == "regression":
            if classes is not None:
                raise ConfigError(
                    f"data.classes={classes} names classes, of which data.task=regression has none; set it "
                    "to null"
                )
            return cls(classes=(name,), task=Regression(bounds=_bounds(bounds)))
        if bounds is not None:
            raise ConfigError(
                f"data.target_bounds={bounds} are those of a number: declare data.task=regression with "
                "data.classes=null, or set them to null"
            )
        if classes is None:
            raise ConfigError(
                "data.classes=null: name the classes (or, of data.task=multi_label, the labels) in their "
                "order, e.g. data.classes=[healthy,ill]; or, of a target that is a number, declare "
                "data.task=regression with data.target_bounds=[LOWEST,HIGHEST]"
            )
        names = class_names(classes)
        if task == "multi_label":
            return cls(classes=names, task=MultiLabel(labels=len(names), names=names))
        return cls(
            classes=names, task=Ordinal(classes=len(names), names=names) if task == "ordinal" else None
        )

    def read(self, labels: np.ndarray, *, name: str) -> Tensor:
        """Labels (N, ...) as the task takes them, from stored ones called `name`; raises DataError."""
        if isinstance(self.task, MultiLabel):
            return _several(labels, name=name, names=self.classes)
        if isinstance(self.task, Regression):
            return _numbers(labels, name=name, bounds=self.task.bounds)
        return to_labels(labels, name=name, num_classes=len(self.classes))


def spread(records: Records, *, name: str, classes: Sequence[str], task: Task | None) -> None:
    """Raise DataError where all labels of these records are the same: nothing can be learned or measured."""
    if task is None or task.of_classes:
        several_classes(records, name=name, classes=classes)
    elif bool((records.labels == records.labels[:1]).all()):
        raise DataError(
            f"the {len(records)} {name} records all have the same {task.name} label: add records with "
            "another, or divide the records otherwise"
        )


def _bounds(bounds: Any) -> tuple[float, float]:
    given = [] if bounds is None or isinstance(bounds, str) or not isinstance(bounds, Sequence) else bounds
    ends = [float(end) for end in given if isinstance(end, int | float) and not isinstance(end, bool)]
    if not len(given) == len(ends) == 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ConfigError(
            f"data.target_bounds={'null' if bounds is None else bounds} must be the lowest and the highest "
            "target, two finite numbers, from public knowledge; e.g. data.target_bounds=[0,120]"
        )
    try:
        return Regression(bounds=(ends[0], ends[1])).bounds
    except ConfigError as error:
        raise ConfigError(f"data.target_{error}") from None


def _several(labels: np.ndarray, *, name: str, names: Sequence[str]) -> Tensor:
    """Float32 (N, labels) of 0 and 1."""
    if labels.ndim != 2 or labels.shape[1] != len(names):
        raise DataError(
            f"{name} has shape {tuple(labels.shape)}: store 0 or 1 for each of the {len(names)} labels of "
            f"data.classes, (N, {len(names)})"
        )
    if len(labels) == 0:
        raise DataError(f"{name} holds no labels: give it at least one")
    if labels.dtype.kind not in "iubf" or not np.isin(labels, (0, 1)).all():
        raise DataError(f"{name} holds other values than 0 and 1: store 1 for a label, 0 for none")
    return torch.from_numpy(labels.astype(np.float32))


def _numbers(labels: np.ndarray, *, name: str, bounds: tuple[float, float]) -> Tensor:
    """Float32 (N,) within the bounds."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuf":
        raise DataError(f"{name} is {labels.dtype} of shape {tuple(labels.shape)}: store a number a record")
    if len(labels) == 0:
        raise DataError(f"{name} holds no labels: give it at least one")
    numbers = labels.astype(np.float64)
    for wrong, what in (
        (~np.isfinite(numbers), "is not finite: repair or remove the record"),
        (
            (numbers < bounds[0]) | (numbers > bounds[1]),
            f"is outside data.target_bounds={list(bounds)}: declare the true ones, or clip the labels",
        ),
    ):
        if wrong.any():
            raise DataError(f"the label of record {int(wrong.argmax())} of {name} {what}")
    return within(numbers, bounds)


def within(numbers: np.ndarray, bounds: tuple[float, float]) -> Tensor:
    """Numbers within bounds as float32, whose rounding must not step over them."""
    rounded = torch.from_numpy(numbers.astype(np.float32))
    low, high = (torch.tensor(end, dtype=torch.float64) for end in bounds)
    inner = torch.nextafter(low.float(), high.float()), torch.nextafter(high.float(), low.float())
    ends = [
        end.float() if end.float().double() == end else step
        for end, step in zip((low, high), inner, strict=True)
    ]
    return rounded.clamp(*ends)
