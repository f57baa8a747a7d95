"""What any source of records must hand over, a user's own too, looked at before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dptrain.contracts import DataError, Records, Splits

SLACK = 1e-6  # of the range: rounding to float32 may step over an edge of the bounds


def check_splits(splits: object, *, source: str, values: bool) -> Splits:
    """These splits, if they are as the contract has them; raises one DataError that lists what is wrong.

    `source` is the class that made them, for the error. With `values` each input is looked at too,
    some at a time. No value of a record is told, only where it is and which rule it breaks.
    """
    if not isinstance(splits, Splits):
        raise DataError(
            f"data: `{source}`.load returned {type(splits).__name__}; return dptrain.contracts.Splits"
        )
    problems = [*_constants(splits), *_parts(splits), *_groups(splits)]
    if not problems and values:
        for name, records in _named(splits):
            problems += _values(name, records, splits.bounds)
    if problems:
        raise DataError("\n".join(f"data: `{source}`: {problem}" for problem in problems))
    return splits


def _named(splits: Splits) -> list[tuple[str, Records]]:
    parts = [("train", splits.train), ("holdout", splits.holdout), ("test", splits.test)]
    return parts if splits.public is None else [*parts, ("public", splits.public)]


def _constants(splits: Splits) -> Iterator[str]:
    classes = len(splits.classes)
    if classes < 2 or len(set(splits.classes)) < classes:
        yield f"classes={splits.classes} must name two classes or more, each once"
    low, high = splits.bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        yield f"bounds={splits.bounds} must be two finite numbers, the lower first"
    channels = splits.shape[0] if splits.shape else 0
    for key in ("mean", "std"):
        values = getattr(splits, key)
        if len(values) not in (1, channels):
            yield f"{key} has {len(values)} values for {channels} channels; give one a channel"
        if not all(math.isfinite(value) and (key == "mean" or value > 0) for value in values):
            yield f"{key}={tuple(values)} must be finite{'' if key == 'mean' else ' and positive'}"
    prior = splits.class_prior
    if prior is not None and (
        len(prior) != classes or min(prior) < 0 or not math.isclose(sum(prior), 1.0, abs_tol=1e-3)
    ):
        yield f"class_prior={prior} must have one value a class, which add up to 1"


def _parts(splits: Splits) -> Iterator[str]:
    for name, records in _named(splits):
        if not isinstance(records, Records):
            yield f"{name} is {type(records).__name__}; give dptrain.contracts.Records"
            continue
        labels = records.labels
        if len(records) == 0:
            yield f"{name} holds no records; give it at least one"
            continue
        if tuple(records.shape) != tuple(splits.shape):
            shapes = tuple(records.shape), tuple(splits.shape)
            yield f"{name} has inputs of shape {shapes[0]}, train of {shapes[1]}; make them alike"
        if labels.dtype != torch.int64 or labels.ndim != 1:
            yield f"labels of {name} are {labels.dtype}, {tuple(labels.shape)}; give int64 of shape (N,)"
            continue
        wrong = (labels < 0) | (labels >= splits.num_classes)
        if bool(wrong.any()):
            yield (
                f"{int(wrong.sum())} labels of {name} lie outside 0 ... {splits.num_classes - 1}, the first "
                f"of record {int(wrong.int().argmax())}; correct them, or name one class for each label"
            )
        elif name in ("train", "test") and len(labels.unique()) < 2:
            yield f"{name} holds records of one class only; add records of another"


def _groups(splits: Splits) -> Iterator[str]:
    for name, ids, records in (
        ("group_ids", splits.group_ids, splits.train),
        ("holdout_group_ids", splits.holdout_group_ids, splits.holdout),
    ):
        if ids is None:
            continue
        if ids.dtype != torch.int64 or tuple(ids.shape) != (len(records),):
            yield f"{name} is {ids.dtype}, {tuple(ids.shape)}; give int64, one a record: ({len(records)},)"
    one, other = splits.group_ids, splits.holdout_group_ids
    if one is not None and other is not None and bool(torch.isin(one, other).any()):
        at = int(torch.isin(one, other).int().argmax())
        yield f"the group of training record {at} has held-out records too; keep all of a group in one part"


def _values(name: str, records: Records, bounds: tuple[float, float]) -> Iterator[str]:
    """The first input that is not finite or lies outside the bounds; inputs are read once."""
    low, high = bounds
    slack, first = SLACK * (high - low), 0
    for batch in records.batches():
        inputs = batch.inputs
        if not inputs.is_floating_point() or inputs.shape[1:] != torch.Size(records.shape):
            shape = tuple(inputs.shape[1:])
            yield f"inputs of {name} are {inputs.dtype}, {shape}; give floats of shape {tuple(records.shape)}"
            return
        flat = inputs.flatten(1)
        for wrong, rule in (
            (~flat.isfinite(), "is not finite; repair or remove it"),
            (
                (flat < low - slack) | (flat > high + slack),
                f"lies outside {bounds}; declare true bounds",
            ),
        ):
            rows: Tensor = wrong.any(1)
            if bool(rows.any()):
                yield f"a value of record {first + int(rows.int().argmax())} of {name} {rule}"
                return
        first += len(batch)
