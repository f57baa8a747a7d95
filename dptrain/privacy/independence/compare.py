"""Whether two computations of one quantity differ by more than rounding, and in which module first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.privacy.independence.bench import AT_INPUT, Answers, Bench
from dptrain.privacy.independence.rows import ORDINARY

# Relative to the largest value: of logits and losses, and of gradients, which rounding can push over a kink.
DOUBLE, SINGLE = (1e-8, 1e-8), (2e-4, 2e-2)
LEAST = 1e-3  # values below this are compared as if they were as large: what cancels leaves rounding behind


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether the difference is below `tolerance` times the largest finite value, or both are not finite."""
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    finite = torch.isfinite(one)
    if not torch.equal(finite, torch.isfinite(other)):
        return False
    one, other = one[finite], other[finite]
    if not len(one):
        return True
    largest = max(float(one.abs().max()), float(other.abs().max()), LEAST)
    return float((one - other).abs().max()) <= tolerance * largest


def tolerances(answers: Answers, *, double: bool) -> tuple[float, float]:
    """For values and for gradients, by the precision that a model computed these answers in."""
    return DOUBLE if double and not answers.rounded else SINGLE


def differs(one: Answers, other: Answers, tolerance: tuple[float, float]) -> str | None:
    """What differs of the ordinary rows that are in both batches; None: nothing."""
    common = [row for row in dict.fromkeys(one.rows) if row in other.rows and row < ORDINARY]
    for what in one.outputs:
        if what not in other.outputs:
            return what
        # A row that comes several times is compared each time.
        places = [(one.rows.index(row), at) for row in common for at, r in enumerate(other.rows) if r == row]
        here, there = (list(side) for side in zip(*places, strict=True))
        allowed = tolerance[what.startswith(AT_INPUT)]
        if not close(one.outputs[what][here], other.outputs[what][there], allowed):
            return what
    return None


def differing(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float, *, largest: float | None
) -> list[str]:
    """Names of the gradients that differ by more than `tolerance` of the largest gradient of all.

    Where these are not all, `largest` is how large that is.
    """
    largest = largest_of(one) if largest is None else largest
    allowed = tolerance * max(largest, LEAST)
    return [name for name in one if not _largest(one[name] - other[name]) <= allowed]


def largest_of(gradients: Mapping[str, Tensor]) -> float:
    """The largest value of these gradients."""
    return max(map(_largest, gradients.values()), default=0.0)


def _largest(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, torch.inf)) if values.numel() else 0.0


_Call = tuple[str, list[Tensor], list[Tensor]]  # a module's name, what went in, what came out


def first_module(bench: Bench, one: Sequence[int], other: Sequence[int], tolerance: float) -> str | None:
    """Name of the first module that takes the same of the shared rows in both batches and gives another.

    The innermost such module; the model's own name is empty. None: no forward pass shows it.
    """
    calls, others = _calls(bench, one), _calls(bench, other)
    common = [row for row in dict.fromkeys(one) if row in other]
    here = [one.index(row) for row in common]
    there = [other.index(row) for row in common]

    def agree(first: list[Tensor], second: list[Tensor]) -> bool:
        return len(first) == len(second) and all(
            _agree(a, b, len(one), len(other), here, there, tolerance)
            for a, b in zip(first, second, strict=True)
        )

    for (name, taken, made), (again, taken_there, made_there) in zip(calls, others, strict=False):
        if name != again:
            return None
        if agree(taken, taken_there) and not agree(made, made_there):
            return name
    return None


def _calls(bench: Bench, rows: Sequence[int]) -> list[_Call]:
    """Every module's inputs and outputs, in the order in which the modules were done."""
    found: list[_Call] = []
    handles = []
    for name, module in bench.model.named_modules():

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            module.__dict__.setdefault("_taken", []).append(_tensors((args, kwargs)))

        def after(module: nn.Module, args: Any, kwargs: Any, made: Any, name: str = name) -> None:  # noqa: ARG001
            found.append((name, module.__dict__["_taken"].pop(), _tensors(made)))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        bench.ask(rows)
    finally:
        for handle in handles:
            handle.remove()
        for module in bench.model.modules():
            module.__dict__.pop("_taken", None)
    return found


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    if isinstance(value, dict):
        return [tensor for inner in value.values() for tensor in _tensors(inner)]
    if isinstance(value, list | tuple):
        return [tensor for inner in value for tensor in _tensors(inner)]
    return []


def _agree(
    one: Tensor, other: Tensor, rows: int, others: int, here: list[int], there: list[int], tolerance: float
) -> bool:
    """Whether two tensors hold the same of the shared rows along some axis that can be the rows."""
    if one.dim() != other.dim():
        return False
    if one.shape == other.shape and close(one, other, tolerance):
        return True
    for axis in range(one.dim()):
        (each, left), (each_there, left_there) = (
            divmod(one.shape[axis], rows),
            divmod(other.shape[axis], others),
        )
        rest = one.shape[:axis] + one.shape[axis + 1 :] == other.shape[:axis] + other.shape[axis + 1 :]
        if left or left_there or each != each_there or not rest or not each:
            continue
        mine = one.unflatten(axis, (rows, each)).index_select(axis, torch.tensor(here))
        theirs = other.unflatten(axis, (others, each)).index_select(axis, torch.tensor(there))
        if close(mine, theirs, tolerance):
            return True
    return False
