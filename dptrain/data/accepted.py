"""What any source of records must hand over, a user's own too, looked at before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from numbers import Real

import torch
from torch import Tensor

from dptrain.contracts import DataError, Form, Forms, Records, Splits
from dptrain.contracts.trees import by_name, leaves
from dptrain.data.checks import TAKEN, TAKEN_BY_REPORTS

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
    problems = list(_kinds(splits))
    if not problems:
        problems = [*_constants(splits), *_parts(splits), *_groups(splits), *_subgroups(splits)]
    if not problems and values:
        for name, records in _named(splits):
            problems += _values(name, records, splits.forms)
    if problems:
        raise DataError("\n".join(f"data: `{source}`: {problem}" for problem in problems))
    return splits


def _named(splits: Splits) -> list[tuple[str, Records]]:
    parts = [("train", splits.train), ("holdout", splits.holdout), ("test", splits.test)]
    return parts if splits.public is None else [*parts, ("public", splits.public)]


def _kinds(splits: Splits) -> Iterator[str]:
    """What is of another type than the contract says, which all that follows relies on."""
    for name, records in _named(splits):
        if not isinstance(records, Records):
            yield f"{name} is {type(records).__name__}; give dptrain.contracts.Records"
            continue
        for each in (*records.held.values(), records.labels):
            if each.is_meta or each.layout != torch.strided or each.requires_grad:
                yield f"{name} holds a tensor that is sparse, differentiable or empty; give plain ones"
    for name in ("bounds", "mean", "std"):
        values = getattr(splits, name)
        if not _numbers(values) or (name == "bounds" and len(values) != 2):
            yield f"{name}={values!r} must be {'two' if name == 'bounds' else 'a tuple of'} numbers"
    for name, values in splits.bounds_by_name.items():
        if not _numbers(values) or len(values) != 2:
            yield f"bounds_by_name[{name}]={values!r} must be two numbers"
    if not isinstance(splits.classes, tuple | list):
        yield f"classes={splits.classes!r} must be a tuple of names"
    if splits.class_prior is not None and not _numbers(splits.class_prior):
        yield f"class_prior={splits.class_prior!r} must be a tuple of numbers"
    if splits.task is not None and not hasattr(splits.task, "problem"):
        yield f"task={splits.task!r} is no task; give one of dptrain.tasks, or None for classification"
    for name in ("group_ids", "holdout_group_ids", "test_group_ids"):
        if not isinstance(getattr(splits, name), Tensor | None):
            yield f"{name} is {type(getattr(splits, name)).__name__}; give an int64 tensor, one a record"
    if not isinstance(splits.subgroups, Mapping):
        yield f"subgroups is {type(splits.subgroups).__name__}; give a dict, of one value a test record each"


def _numbers(values: object) -> bool:
    return isinstance(values, tuple | list) and all(
        isinstance(each, Real) and not isinstance(each, bool) for each in values
    )


def _constants(splits: Splits) -> Iterator[str]:
    classes = len(splits.classes)
    if splits.task is None and (classes < 2 or len(set(splits.classes)) < classes):
        yield f"classes={splits.classes} must name two classes or more, each once"
    for low, high in (splits.bounds, *splits.bounds_by_name.values()):
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            yield f"bounds={(low, high)} must be two finite numbers, the lower first"
    channels = splits.shape[0] if splits.shape else 0
    for key in () if splits.train.names or splits.train.whole else ("mean", "std"):
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
    if prior is not None and splits.task is not None and splits.task.name != "classification":
        yield (
            f"class_prior={prior} is of a classification, and the task is {splits.task.name}; set "
            "data.class_prior=null"
        )


def _parts(splits: Splits) -> Iterator[str]:
    for name, records in _named(splits):
        labels = records.labels
        if len(records) == 0:
            yield f"{name} holds no records; give it at least one"
            continue
        if records.shapes != splits.train.shapes:
            shapes = records.shapes, splits.train.shapes
            yield f"{name} has inputs of shape {shapes[0]}, train of {shapes[1]}; make them alike"
        if splits.task is not None:
            if (problem := splits.task.problem(labels)) is not None:
                yield f"labels of {name} {problem}"
            continue
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
        ("test_group_ids", splits.test_group_ids, splits.test),
    ):
        if ids is None:
            continue
        if ids.dtype != torch.int64 or tuple(ids.shape) != (len(records),):
            yield f"{name} is {ids.dtype}, {tuple(ids.shape)}; give int64, one a record: ({len(records)},)"
    one = splits.group_ids
    for part, other in (("held-out", splits.holdout_group_ids), ("test", splits.test_group_ids)):
        if one is not None and other is not None and bool(torch.isin(one, other).any()):
            at = int(torch.isin(one, other).int().argmax())
            yield f"the group of training record {at} has {part} records too; keep all of a group in one part"


def _subgroups(splits: Splits) -> Iterator[str]:
    for column, values in splits.subgroups.items():
        if column in TAKEN:
            yield f"subgroups.{column} {TAKEN_BY_REPORTS}"
        if len(values) != len(splits.test):
            yield f"subgroups.{column} has {len(values)} values; give one a test record: {len(splits.test)}"


def _values(name: str, records: Records, forms: Forms) -> Iterator[str]:
    """The first input that is not finite or lies outside its bounds; inputs are read once."""
    first = 0
    for batch in records.batches():
        said = by_name(partial(_wrong, name, first), batch.inputs, forms)
        if problem := next((each for each in leaves(said) if each), None):
            yield problem
            return
        first += len(batch)


def _wrong(name: str, first: int, inputs: Tensor, form: Form) -> str:
    """What is wrong with one input of a batch, which begins at record `first` of its part; else nothing."""
    if inputs.is_floating_point() == form.whole or tuple(inputs.shape[1:]) != form.shape:
        wanted = "whole numbers" if form.whole else "floats"
        shape = tuple(inputs.shape[1:])
        return f"inputs of {name} are {inputs.dtype}, {shape}; give {wanted} of shape {form.shape}"
    (low, high), flat = form.bounds, inputs.reshape(len(inputs), -1)
    slack = SLACK * (high - low)
    for wrong, rule in (
        (~flat.isfinite(), "is not finite; repair or remove it"),
        ((flat < low - slack) | (flat > high + slack), f"lies outside {form.bounds}; declare true bounds"),
    ):
        rows: Tensor = wrong.any(1)
        if bool(rows.any()):
            return f"a value of record {first + int(rows.int().argmax())} of {name} {rule}"
    return ""
