"""From stored arrays to tensors that can be trusted, or one clear DataError."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, Rows

CHANNELS = (1, 2, 3, 4)  # more than four in the last axis is an axis of pixels
TAKEN = ("all", "class", "label")  # what reports tell records apart by beside columns
TAKEN_BY_REPORTS = "is what reports call another part of the test records; give the column another name"
CHUNK = 1024  # records that are looked at at once


def to_records(
    arrays: Mapping[str, np.ndarray],
    part: str,
    *,
    where: str,
    num_classes: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    make_inputs: Callable[..., Tensor | Rows] | None = None,
    read_labels: Callable[..., Tensor] | None = None,
) -> Records:
    """Records from the arrays `{part}_images` and `{part}_labels` of `where`, a file's name.

    Takes what `to_inputs` (or `make_inputs`) and `to_labels` (or `read_labels`) take. Raises DataError
    naming array, file and cure.
    """
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    inputs = (make_inputs or to_inputs)(images, name=f"{part}_images of {where}", bounds=bounds)
    read_labels = read_labels or partial(to_labels, num_classes=num_classes)
    targets = read_labels(labels, name=f"{part}_labels of {where}")
    same_count(images, targets, name=f"{part}_images of {where}", other=f"{part}_labels")
    return Records(inputs, targets)


def to_inputs(images: np.ndarray, *, name: str, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Float32 (N, C, H, W) in (0, 1), from images (N, H, W) or (N, H, W, C).

    uint8 is divided by 255; floats are taken from their declared `bounds`. Raises DataError
    for another shape or type, no records, NaN, infinity, and values outside `bounds`.
    """
    return convert(check_images(images, name=name, bounds=bounds), bounds=bounds)


def check_images(images: np.ndarray, *, name: str, bounds: tuple[float, float]) -> np.ndarray:
    """These images as (N, H, W, C), of which no more than a chunk is looked at at once; or DataError."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[-1] not in CHANNELS:
        raise DataError(
            f"{name} has shape {tuple(images.shape)}: store images as (N, H, W), or (N, H, W, C) "
            f"with 1 to {CHANNELS[-1]} channels last"
        )
    if 0 in images.shape:
        raise DataError(
            f"{name} has shape {tuple(images.shape)}, so it holds no records: give it at least one"
        )
    if images.dtype != np.uint8:
        if images.dtype.kind != "f":
            raise DataError(f"{name} is {images.dtype}: store pixels as uint8, or as floats in data.bounds")
        for first in range(0, len(images), CHUNK):
            _refuse_unbounded(images[first : first + CHUNK], first=first, name=name, bounds=bounds)
    return images


def convert(images: np.ndarray, *, bounds: tuple[float, float]) -> Tensor:
    """Float32 (N, C, H, W) in (0, 1), from images (N, H, W, C) that have been checked."""
    scaled = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32))
    if images.dtype == np.uint8:
        return scaled.div_(255.0)
    low, high = bounds
    # Rounding to float32 may step over the edge of the bounds by one unit in the last place.
    return scaled.sub_(low).div_(high - low).clamp_(0.0, 1.0)


def to_labels(labels: np.ndarray, *, name: str, num_classes: int) -> Tensor:
    """Int64 (N,), from integers (N,) or (N, 1) in 0 ... num_classes - 1; else raises DataError."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{name} has shape {tuple(labels.shape)}: give one label a record, (N,) or (N, 1); "
            "where a record may have several, declare data.task=multi_label"
        )
    if len(labels) == 0:
        raise DataError(f"{name} holds no labels: give it at least one")
    if labels.dtype.kind not in "iub":
        raise DataError(
            f"{name} is {labels.dtype}: store labels as integers, 0 ... {num_classes - 1}; or, where they "
            "are numbers to predict, declare data.task=regression with data.target_bounds"
        )
    labels = labels.astype(np.int64)
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        record = int(wrong.argmax())
        raise DataError(
            f"the label of record {record} of {name} lies outside 0 ... {num_classes - 1}: correct it, or "
            "name one class for each label"
        )
    return torch.from_numpy(labels)


def same_count(values: Sequence | np.ndarray | Tensor, labels: Tensor, *, name: str, other: str) -> None:
    """Raises DataError unless there are as many `values` as labels."""
    if len(values) != len(labels):
        raise DataError(
            f"{name} has {len(values)} records but {other} has {len(labels)}: make them match one to one"
        )


def class_names(classes: Any) -> tuple[str, ...]:
    """The declared names of the classes, in label order, as text; raises ConfigError where they are none.

    >>> class_names(["healthy", 1])
    ('healthy', '1')
    """
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        raise ConfigError(
            f"data.classes={classes} must be a list of names, in label order; e.g. data.classes=[healthy,ill]"
        )
    if any(isinstance(each, bool) or not isinstance(each, str | int) for each in classes):
        raise ConfigError(
            f"data.classes={list(classes)} must be words or whole numbers; quote yes, no, true, false and "
            'null, e.g. data.classes=["yes","no"]'
        )
    names = tuple(str(each).strip() for each in classes)
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise ConfigError(
            f"data.classes={list(classes)} must name at least two classes, each once, in label order"
        )
    return names


def several_classes(records: Records, *, name: str, classes: Sequence[str]) -> None:
    """Raises DataError if all these records are of one class, so that nothing can be learned or scored."""
    present = records.labels.unique().tolist()
    if len(present) < 2:
        raise DataError(
            f"the {len(records)} {name} records are all of one of the {len(classes)} classes: "
            f"add records of another class, or divide the records otherwise"
        )


def constants(values: Sequence[float], *, key: str, channels: int) -> tuple[float, ...]:
    """The declared normalisation constants, one a channel; raises ConfigError for another number of them."""
    declared = tuple(float(value) for value in values)
    if len(declared) != channels:
        raise ConfigError(
            f"data.{key}={list(declared)} must have one value for each of the images' {channels} channels; "
            f"declare it from public knowledge"
        )
    if key == "std" and min(declared) <= 0:
        raise ConfigError(f"data.std={list(declared)} must be positive; 0.25 suits most images")
    return declared


def _refuse_unbounded(images: np.ndarray, *, first: int, name: str, bounds: tuple[float, float]) -> None:
    flat = images.reshape(len(images), -1)
    low, high = bounds
    lost = ~np.isfinite(flat).all(axis=1)
    if lost.any():
        record = int(lost.argmax())
        what = "NaN" if np.isnan(flat[record]).any() else "infinity"
        raise DataError(f"record {first + record} of {name} holds {what}: repair or remove the record")
    beyond = (flat < low) | (flat > high)
    if beyond.any():
        record = int(beyond.any(axis=1).argmax())
        raise DataError(
            f"record {first + record} of {name} holds a value outside the declared bounds "
            f"({low:g}, {high:g}): rescale the images, or declare their true range in data.bounds"
        )
