"""The minimum of a regularised logistic regression of several classes, found to a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from dptrain.contracts import DptrainError

STEEPEST = math.sqrt(2.0)  # length of softmax less indicator, at most: the slope of a record's loss
CHUNK = 4096  # rows whose loss is computed at a time
MOST_STEPS = 20_000


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Weights (d, outputs), float64."""

    weights: Tensor


def minimum(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    ridge: float,
    offsets: Tensor,
    tolerance: float,
    linear: Callable[[tuple[int, int]], Tensor] | None = None,
) -> Minimum:
    """The minimum for rows (n, d), labels (n,) and weights (n,), batch by batch.

    That of the summed loss, `ridge` / 2 times W squared, and the product of W with what `linear` makes for
    its shape (d, outputs), if it is given; `offsets` (outputs,) are added to all logits. At what is found
    the gradient is no longer than the tolerance. Raises DptrainError where it is not found.
    """
    # In single precision, in half the memory: rows on their grid of 2^-16 are exact in it.
    parts = [(rows.float(), labels, weights.double()) for rows, labels, weights in batches]
    rows, labels, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    shape = (rows.shape[1], len(offsets))
    offsets, term = offsets.double(), None if linear is None else linear(shape)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        point = torch.from_numpy(flat).view(shape)
        value, slope = 0.5 * ridge * float(point.square().sum()), ridge * point
        if term is not None:
            value, slope = value + float((term * point).sum()), slope + term
        for start in range(0, len(rows), CHUNK):
            some = slice(start, start + CHUNK)
            seen = rows[some].double()
            logits = seen @ point + offsets
            losses = cross_entropy(logits, labels[some], reduction="none")
            value += float(losses @ weights[some])
            errors = logits.softmax(1)
            errors[torch.arange(len(errors)), labels[some]] -= 1.0
            slope = slope + seen.T @ (errors * weights[some, None])
        return value, slope.flatten().numpy()

    start = np.zeros(math.prod(shape))
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "maxcor": 30, "ftol": 0.0}
    options["gtol"] = tolerance / 2 / math.sqrt(len(start))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    _, slope = objective(found)
    if not float(np.linalg.norm(slope)) <= tolerance:
        raise DptrainError(
            f"mechanism.ridge={ridge:g}: the minimum was not found to {tolerance:g} in {MOST_STEPS:,} "
            "steps, and noise for it would not cover what was found; choose a larger ridge, which also "
            "needs less noise"
        )
    return Minimum(weights=torch.from_numpy(found).view(shape))
