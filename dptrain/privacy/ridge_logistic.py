"""The minimum of a regularised logistic regression of several classes, found to a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor
from torch.nn.functional import cross_entropy

from dptrain.contracts import DptrainError

STEEPEST = math.sqrt(2.0)  # length of softmax less indicator, at most: the slope of a record's loss
CHUNK = 4096  # rows whose loss is computed at a time
MOST_STEPS = 500  # by values, which say nothing any more where they differ by rounding
MOST_NEWTON = 60  # by slopes, from there

Vector = NDArray[np.float64]


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
    chunks = [slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK)]
    offsets, term = offsets.double(), None if linear is None else linear(shape)

    def objective(flat: Vector) -> tuple[float, Vector]:
        point = torch.from_numpy(flat).view(shape)
        value, slope = 0.5 * ridge * float(point.square().sum()), ridge * point
        if term is not None:
            value, slope = value + float((term * point).sum()), slope + term
        for some in chunks:
            seen = rows[some].double()
            logits = seen @ point + offsets
            losses = cross_entropy(logits, labels[some], reduction="none")
            value += float(losses @ weights[some])
            errors = logits.softmax(1)
            errors[torch.arange(len(errors)), labels[some]] -= 1.0
            slope = slope + seen.T @ (errors * weights[some, None])
        return value, slope.flatten().numpy()

    def curvature(flat: Vector) -> Callable[[Vector], Vector]:
        """The product of the Hessian at a point with a direction."""
        point = torch.from_numpy(flat).view(shape)
        told = [(rows[some].double() @ point + offsets).softmax(1) for some in chunks]

        def along(direction: Vector) -> Vector:
            way = torch.from_numpy(direction).view(shape)
            bent = ridge * way
            for some, odds in zip(chunks, told, strict=True):
                seen = rows[some].double()
                change = seen @ way
                change = odds * (change - (odds * change).sum(1, keepdim=True)) * weights[some, None]
                bent = bent + seen.T @ change
            return bent.flatten().numpy()

        return along

    start = np.zeros(math.prod(shape))
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "maxcor": 30, "ftol": 1e-13}
    options["gtol"] = tolerance / 2 / math.sqrt(len(start))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    found, length = newton(found, lambda point: objective(point)[1], curvature, tolerance)
    if not length <= tolerance:
        raise DptrainError(
            f"with a ridge of {ridge:g} the minimum was not found to {tolerance:g} but to {length:.2g}, and "
            "noise for it would not cover what was found; choose a larger ridge, which also needs less noise "
            "(mechanism.ridge, or of objective perturbation mechanism.least_ridge)"
        )
    return Minimum(weights=torch.from_numpy(found).view(shape))


def newton(
    point: Vector,
    slope_at: Callable[[Vector], Vector],
    curvature: Callable[[Vector], Callable[[Vector], Vector]],
    tolerance: float,
) -> tuple[Vector, float]:
    """From a point, a place where the slope is no longer than the tolerance, if it is found; and its length.

    Newton's steps by conjugate gradients, each halved until the slope is shorter (of a convex function it is
    along a small part of the step, whatever rounding does to values).
    """
    slope = slope_at(point)
    for _ in range(MOST_NEWTON):
        length = float(np.linalg.norm(slope))
        if length <= tolerance:
            break
        product = LinearOperator((len(point), len(point)), matvec=curvature(point), dtype=np.float64)
        step, _ = cg(product, -slope, rtol=1e-3, maxiter=2000)
        for halved in range(20):
            there = point + step * 0.5**halved
            slope_there = slope_at(there)
            if np.linalg.norm(slope_there) < length:
                break
        else:
            break
        point, slope = there, slope_there
    return point, float(np.linalg.norm(slope))
