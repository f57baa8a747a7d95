"""Whether two computations of one quantity differ by more than rounding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dptrain.privacy.independence.bench import AT_INPUT, Answers
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


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float) -> list[str]:
    """Names of the gradients that differ by more than `tolerance` of the largest gradient of all."""
    largest = max(map(_largest, one.values()), default=0.0)
    allowed = tolerance * max(largest, LEAST)
    return [name for name in one if not _largest(one[name] - other[name]) <= allowed]


def _largest(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, torch.inf)) if values.numel() else 0.0
