"""The minimum of a regularised logistic regression, found to a tolerance, and noise on it.

Output perturbation: Chaudhuri, Monteleoni and Sarwate 2011, "Differentially Private Empirical Risk
Minimization", Algorithm 1, with Gaussian noise in place of theirs, and the loss of several classes.
"""

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
from dptrain.privacy.noise.gaussian import grid_step
from dptrain.privacy.one_release import OneRelease

STEEPEST = math.sqrt(2.0)  # length of softmax less indicator, at most: the slope of a record's loss
TOLERANCE = 1e-3  # length of the gradient at what counts as the minimum
CHUNK = 4096  # rows whose loss is computed at a time
MOST_STEPS = 20_000


@dataclass(frozen=True, kw_only=True)
class MinimumPlan(OneRelease):
    """The minimum of the summed logistic loss of rows of length 1 at most, and `ridge` / 2 times W squared.

    The sum is as convex as the ridge, so that a unit more or less, whose loss is no steeper than the square
    root of 2, moves the minimum by that over the ridge at most; and what is found in place of the minimum, at
    which the gradient is no longer than the tolerance, lies within the tolerance over the ridge of it.
    """

    ridge: float  # in records: as much as so many weigh
    feature_norm: float  # to which features are clipped

    @property
    def sensitivity(self) -> float:
        """How far one unit more or less moves what is found, at most."""
        return (STEEPEST + 2.0 * TOLERANCE) / self.ridge

    @property
    def std(self) -> float:
        """Standard deviation of the noise on each weight."""
        return self.noise_multiplier * self.sensitivity

    @property
    def fresh_std(self) -> float:
        """All of that: no noise is used twice."""
        return self.std

    @property
    def grid(self) -> float:
        """The grid that noisy weights are rounded to, in standard deviations of the noise."""
        return grid_step(self.std) / self.std

    @property
    def mu(self) -> float:
        """A unit in place of another moves the minimum twice as far as one more or less."""
        return (2.0 if self.adjacency == "replace_one" else 1.0) / self.noise_multiplier

    def describe(self) -> tuple[tuple[str, str], ...]:
        return (
            (
                "noise",
                f"Gaussian of standard deviation {self.std:.4g} on each weight, noise multiplier "
                f"{self.noise_multiplier:.4g}",
            ),
            (
                "ridge",
                f"of {self.ridge:g} records, by which no record moves the minimum far",
            ),
            ("clipping", f"features to norm {self.feature_norm:g}"),
            ("queries", "each record is used in full, none is sampled; the minimum is released once"),
        )


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Weights (d, outputs), float64."""

    weights: Tensor


def minimum(batches: Iterable[tuple[Tensor, Tensor, Tensor]], plan: MinimumPlan, offsets: Tensor) -> Minimum:
    """The minimum for rows (n, d), labels (n,) and weights (n,), batch by batch, found to the tolerance.

    `offsets` (outputs,) are added to all logits. Raises DptrainError where it is not found.
    """
    # In single precision, in half the memory: rows on their grid of 2^-16 are exact in it.
    parts = [(rows.float(), labels, weights.double()) for rows, labels, weights in batches]
    rows, labels, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    shape = (rows.shape[1], len(offsets))
    offsets = offsets.double()

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        point = torch.from_numpy(flat).view(shape)
        value, slope = 0.5 * plan.ridge * float(point.square().sum()), plan.ridge * point
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
    options["gtol"] = TOLERANCE / 2 / math.sqrt(len(start))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    _, slope = objective(found)
    if not float(np.linalg.norm(slope)) <= TOLERANCE:
        raise DptrainError(
            f"mechanism.ridge={plan.ridge:g}: the minimum was not found to {TOLERANCE:g} in {MOST_STEPS:,} "
            "steps, and noise for it would not cover what was found; choose a larger ridge, which also "
            "needs less noise"
        )
    return Minimum(weights=torch.from_numpy(found).view(shape))


def noised(found: Minimum, plan: MinimumPlan, add: Callable[[list[Tensor], float], list[Tensor]]) -> Minimum:
    """The minimum with the noise that the plan claims."""
    (weights,) = add([found.weights], plan.std)
    return Minimum(weights=weights)
