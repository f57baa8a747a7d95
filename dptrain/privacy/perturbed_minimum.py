"""The minimum of a regularised logistic regression, and noise on it.

Output perturbation: Chaudhuri, Monteleoni and Sarwate 2011, "Differentially Private Empirical Risk
Minimization", Algorithm 1, with Gaussian noise in place of theirs, and the loss of several classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dptrain.privacy.noise.gaussian import grid_step
from dptrain.privacy.one_release import GaussianRelease
from dptrain.privacy.ridge_logistic import STEEPEST, Minimum

TOLERANCE = 1e-3  # length of the gradient at what counts as the minimum


@dataclass(frozen=True, kw_only=True)
class MinimumPlan(GaussianRelease):
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


def noised(found: Minimum, plan: MinimumPlan, add: Callable[[list[Tensor], float], list[Tensor]]) -> Minimum:
    """The minimum with the noise that the plan claims."""
    (weights,) = add([found.weights], plan.std)
    return Minimum(weights=weights)
