"""The minimum of a ridge logistic regression whose objective has a random linear term: plan and proof.

Objective perturbation: Chaudhuri, Monteleoni and Sarwate 2011; with Gaussian noise Kifer, Smith and Thakurta
2012, "Private Convex Empirical Risk Minimization"; with minima that are found approximately Iyengar et al.
2019, "Towards Practical Differentially Private Convex Optimization"; by privacy loss distributions Redberg,
Koskela and Wang 2023, "Improving the Privacy and Practicality of Objective Perturbation". What follows is
sharper than their theorems, for it bounds slope and curvature of a record's loss together.

Let W* minimise sum of losses + ridge/2 |W|^2 + <b, W>, b normal with standard deviation s. The ridge makes it
unique, b = -(slope of the rest at W*), one to one and smooth, and the density of W* is that of b times the
determinant of the Hessian. Of K classes and a row x of length r, 1 at most, with probabilities p and label y,
the slope of the loss is (p - e_y) x', and its Hessian (diag p - p p') times x x', of trace 1 - |p|^2 at most.
Through one record more or less the logarithm of the ratio of densities changes by
    |slope|^2 / 2 s^2 + <b, slope> / s^2, with either sign of b, which has the same distribution,
and, where it is more, by log det(I + H^-1 Hessian), at most the trace over the ridge, as H is that at least.
With p = (1 - q) e_y + q v, v among the other classes, t_k = <b_k, x> / (r s) independent and standard normal,
Z the largest of (t_k - t_y) / sqrt 2 over the K - 1 others, and m = sqrt(2) / s, the loss is at most
    f(q) = q^2 m^2 / 2 + q m Z + (2 q (1 - q) + c q^2) / ridge,   c = (K - 2) / (K - 1),
for |p - e_y|^2 <= 2 q^2, <p - e_y, t> <= q sqrt(2) Z and 1 - |p|^2 <= 2 q (1 - q) + c q^2. (For a shorter
row this is convex in r and 0 where r is: no more than the larger of f and 0.) As q hangs on b, what holds is
the largest f(q) for q in [0, 1], a convex and rising function of Z, and Z passes z no more often than
1 - Phi(z)^(K - 1), for its parts are positively correlated (Slepian 1962). With two classes and from losses
of 2 / ridge - m^2 / 2 on, q = 1 is largest: the loss is that of the Gaussian mechanism of parameter m.

A unit of several records, whose weights add up to 1, has a loss that is at most the mean of such losses, by
convexity of the square; and one unit in place of another, with slopes g and h, at most the mean of one with
2 g and twice the curvature, and of one with -2 h. Means are bounded by `bounded_loss.of_means`.

What is found is not W* but has a slope of length `TOLERANCE` at most, and lies within that over the ridge of
W*. Given W*, two neighbours find what lies twice that apart at most, and normal noise on it is a Gaussian
mechanism, of parameter OUTPUT / noise_multiplier, which is composed with the first; W* itself is never shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.special import log_ndtr
from scipy.stats import norm
from torch import Tensor

from dptrain.contracts import Budget, ConfigError, PrivacyLoss
from dptrain.privacy.accountant import FINEST, MOST_LOSS, MOST_POINTS_OF_ONE
from dptrain.privacy.bounded_loss import Numbers, distribution, of_means
from dptrain.privacy.noise.gaussian import grid_step
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.one_release import OneRelease, target_of, with_named_noise
from dptrain.privacy.plan import MOST_NOISE, calibrate
from dptrain.privacy.ridge_logistic import STEEPEST, Minimum, minimum

# Length of the slope at what counts as the minimum. Half of it is asked for; the other half is for
# rounding, of sums of 2^21 slopes in chunks (2e-6), and of the linear term, which the ideal
# one lies near.
TOLERANCE = 1e-4
OUTPUT = 0.1  # of the parameter of the linear term, that of the noise on what is found: 0.5 % of both
FURTHEST = 9.5  # standard deviations, beyond which losses count as infinite


@dataclass(frozen=True, kw_only=True)
class ObjectivePlan(OneRelease):
    """The minimum of a summed logistic loss, of a ridge, and of a random linear term; noise on it.

    `noise_multiplier` is the standard deviation of the linear term over the square root of 2, the steepest
    that a record's loss is. `alone`: each unit has one record.
    """

    loss_is_bound: ClassVar[bool] = True  # and no distribution that other accountants could read

    ridge_per_noise: float
    least_ridge: float
    feature_norm: float  # to which features are clipped
    classes: int
    alone: bool = True

    @property
    def ridge(self) -> float:
        """Its weight, in records: as much as so many weigh. The more noise, the heavier."""
        return max(self.least_ridge, self.ridge_per_noise * self.noise_multiplier)

    @property
    def linear_std(self) -> float:
        """Standard deviation of each number of the linear term."""
        return self.noise_multiplier * STEEPEST

    @property
    def output_std(self) -> float:
        """Standard deviation of the noise on each weight that is found."""
        return 2.0 * TOLERANCE / self.ridge * self.noise_multiplier / OUTPUT

    @property
    def fresh_std(self) -> float:
        return self.output_std

    @property
    def grid(self) -> float:
        return grid_step(self.output_std) / self.output_std

    @property
    def most(self) -> float:
        return self._changed

    @property
    def _changed(self) -> float:
        return 2.0 if self.adjacency == "replace_one" else 1.0

    @property
    def mu(self) -> float:
        """Parameter of the Gaussian mechanism that the linear term is, but for the change of curvature."""
        return self._changed / self.noise_multiplier

    @property
    def interval(self) -> float:
        most = self._loss_at(FURTHEST)
        if most > MOST_LOSS:
            raise ConfigError(
                f"privacy.noise_multiplier={self.noise_multiplier:.3g} at a ridge of {self.ridge:g} is "
                "too little: epsilon would be in the hundreds, which protects nobody; add noise"
            )
        return max(FINEST, 2.0 * most / MOST_POINTS_OF_ONE)

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        interval = self.interval if interval is None else interval
        if steps == 0:
            return pld.identity(interval)
        points = interval * np.arange(math.ceil(self._loss_at(FURTHEST) / interval) + 1)
        survival = self.survival(points)
        if not self._single:
            survival = of_means(survival, interval, self._beyond(points[-1]))
        found = pld.from_gaussian_mechanism(
            self.noise_multiplier / OUTPUT, value_discretization_interval=interval
        )
        return distribution(survival, interval).compose(found)

    def survival(self, losses: Numbers) -> Numbers:
        """How often the loss of a record, through the linear term alone, passes each of these at most."""
        return -np.expm1((self.classes - 1) * log_ndtr(self._normal_at(losses)))

    def describe(self) -> tuple[tuple[str, str], ...]:
        return (
            (
                "noise",
                f"a linear term in the objective, Gaussian of standard deviation {self.linear_std:.4g} "
                f"for each weight, noise multiplier {self.noise_multiplier:.4g}; and {self.output_std:.3g} "
                f"on each weight that is found, for it is a minimum to a slope of {TOLERANCE:g}",
            ),
            (
                "ridge",
                f"of {self.ridge:g} records, by which no record changes the curvature much",
            ),
            (
                "conditions",
                "the logistic loss of several classes is convex and smooth; that of a row of length 1 is no "
                "steeper than the square root of 2, its curvature has a trace of 1 - 1 / classes at most",
            ),
            ("clipping", f"features to norm {self.feature_norm:g}"),
            ("queries", "each record is used in full, none is sampled; the minimum is released once"),
        )

    @property
    def _single(self) -> bool:
        """Whether the loss is that of one record, and not a mean of several."""
        return self.alone and self.adjacency == "add_remove"

    @property
    def _curvature(self) -> float:
        return self._changed / self.ridge

    @property
    def _bend(self) -> float:
        """What f(q) has of -q^2."""
        others = (self.classes - 2) / (self.classes - 1)
        return (2.0 - others) * self._curvature - self.mu**2 / 2.0

    def _normal_at(self, losses: Numbers) -> Numbers:
        """The largest Z with which the largest f(q) is no more than each of these losses."""
        bend = self._bend
        inside = (losses >= 0.0) & (losses < bend)  # of q
        least = np.where(inside, 2.0 * np.sqrt(np.maximum(losses * bend, 0.0)), losses + bend)
        return (least - 2.0 * self._curvature) / self.mu

    def _loss_at(self, normal: float) -> float:
        """The largest f(q) with this Z."""
        slope, bend = self.mu * normal + 2.0 * self._curvature, self._bend
        if slope <= 0.0:
            return max(0.0, slope - bend)
        return slope**2 / (4.0 * bend) if 2.0 * bend > slope else slope - bend

    def _beyond(self, loss: float) -> float:
        """By how much a loss passes this one, in the mean, at most: it rises by mu times Z, and no faster."""
        normal = float(self._normal_at(np.array([loss]))[0])
        return self.mu * (self.classes - 1) * float(norm.pdf(normal) - normal * norm.sf(normal))


def calibrated(plan: ObjectivePlan, budget: Budget) -> ObjectivePlan:
    """The plan with the noise that spends exactly this budget; raises ConfigError where no noise does."""
    target = target_of(plan, budget)
    if target is None:
        return with_named_noise(plan, budget)
    quiet = replace(plan, units=1, noise_multiplier=MOST_NOISE)  # units have no say in the loss
    if target.spent(quiet.loss()) > target.most:
        raise ConfigError(
            f"mechanism.least_ridge={plan.least_ridge:g} with mechanism.ridge_per_noise=0 is too little for "
            f"privacy.{target.key}={target.most:g}: a record changes the curvature of the objective so much "
            "that no noise hides it; choose 2 / epsilon or more, or mechanism.ridge_per_noise=2.5"
        )
    return replace(plan, noise_multiplier=calibrate(quiet, target, ObjectivePlan.loss))


def perturbed_minimum(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    plan: ObjectivePlan,
    offsets: Tensor,
    noise: NoiseSource | None,
) -> Minimum:
    """The minimum for rows, labels and weights with the noise that the plan claims, or without any."""

    def linear(shape: tuple[int, int]) -> Tensor:
        assert noise is not None
        return plan.linear_std * noise.normal(math.prod(shape)).view(shape)

    found = minimum(
        batches,
        ridge=plan.ridge,
        offsets=offsets,
        linear=None if noise is None else linear,
        tolerance=TOLERANCE / 2,
    )
    if noise is None:
        return found
    (noisy,) = noise.add([found.weights], plan.output_std)
    return Minimum(weights=noisy)
