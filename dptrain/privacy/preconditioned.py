"""The plan of DP-SGD on features whose noisy second moments are released before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dp_accounting import ComposedDpEvent, DpEvent, GaussianDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld

from dptrain.contracts import Budget, PrivacyLoss
from dptrain.privacy import accountant
from dptrain.privacy.accountant import DPSGDPlan, OfClippedSums
from dptrain.privacy.plan import Rates, Target, calibrate, check_delta, check_rounding

MOST_EXPONENT = 600.0  # beyond, exp leaves double precision


@dataclass(frozen=True, kw_only=True)
class PreconditionedPlan(OfClippedSums):
    """Noisy second moments of clipped features, and steps of DP-SGD on what is made of features by these.

    `noise_multiplier` is that of the steps. Of the squared mu of both second moments take `covariance_share`,
    with the mu of steps by the central limit of their composition (Bu et al. 2020), or without sampling if
    that is less; the account itself composes privacy loss distributions. Rows, features and a constant, are
    of length 1 at most for a unit.
    """

    units: int
    sample_rate: float
    steps: int
    expected_batch_size: int
    max_grad_norm: float
    noise_multiplier: float
    covariance_share: float
    feature_norm: float
    clipping: str = "flat"
    sampling: str = "poisson"
    adjacency: str = "add_remove"

    @property
    def training(self) -> DPSGDPlan:
        """The steps alone."""
        return DPSGDPlan(
            units=self.units,
            sample_rate=self.sample_rate,
            steps=self.steps,
            expected_batch_size=self.expected_batch_size,
            max_grad_norm=self.max_grad_norm,
            noise_multiplier=self.noise_multiplier,
            clipping=self.clipping,
            sampling=self.sampling,
            adjacency=self.adjacency,
        )

    @property
    def fresh_std(self) -> float:
        return self.noise_std

    @property
    def most(self) -> float:
        return max(super().most, self.covariance_mu * self.noise_multiplier)

    @property
    def covariance_std(self) -> float:
        """Standard deviation of the noise on the diagonal of second moments; a unit moves them by 1."""
        alone = self.noise_multiplier**-2
        sampled = self.sample_rate**2 * math.expm1(min(alone, MOST_EXPONENT))
        of_steps = self.steps * min(sampled, alone)
        return math.sqrt((1.0 - self.covariance_share) / (self.covariance_share * of_steps))

    @property
    def covariance_mu(self) -> float:
        """Parameter of the Gaussian mechanism that they are: replaced, a unit moves them by sqrt 2."""
        return (math.sqrt(2.0) if self.adjacency == "replace_one" else 1.0) / self.covariance_std

    @property
    def interval(self) -> float:
        return max(accountant.grid(self.training), accountant.grid(self._first()))

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        """That of second moments and of so many steps (0: of second moments)."""
        interval = self.interval if interval is None else interval
        first: pld.PrivacyLossDistribution = accountant.privacy_loss(self._first(), interval=interval)
        return first.compose(accountant.privacy_loss(self.training, steps, interval=interval))

    def event(self) -> DpEvent:
        return ComposedDpEvent([GaussianDpEvent(1.0 / self.covariance_mu), self.training.event()])

    def describe(self) -> tuple[tuple[str, str], ...]:
        return (
            (
                "covariance",
                f"second moments of features once, clipped to norm {self.feature_norm:g} and divided by it, "
                f"with Gaussian noise of standard deviation {self.covariance_std:.4g}; "
                f"{self.covariance_share:g} of the budget (of the squared mu)",
            ),
            *(
                (f"{name} of steps" if name == "noise" else name, text)
                for name, text in self.training.describe()
            ),
            ("accounting", "privacy loss distributions of second moments and of all steps, composed"),
        )

    def _first(self) -> DPSGDPlan:
        """One Gaussian mechanism that costs what second moments do."""
        return DPSGDPlan(
            units=self.units,
            sample_rate=1.0,
            steps=1,
            expected_batch_size=max(1, self.units),
            max_grad_norm=1.0,
            noise_multiplier=1.0 / self.covariance_mu,
        )


def make_preconditioned_plan(
    budget: Budget,
    rates: Rates,
    units: int,
    *,
    max_grad_norm: float,
    clipping: str,
    covariance_share: float,
    feature_norm: float,
) -> PreconditionedPlan:
    """The plan that spends exactly this budget, or with the noise of steps that the budget names."""
    sample_rate, steps, batch = rates.resolve(units)
    check_delta(budget.delta, units if budget.units_public else batch / sample_rate, budget.unit)
    check_rounding(budget.delta, steps)
    plan = PreconditionedPlan(
        units=units,
        sample_rate=sample_rate,
        steps=steps,
        expected_batch_size=batch,
        max_grad_norm=max_grad_norm,
        noise_multiplier=budget.noise_multiplier or 1.0,
        covariance_share=covariance_share,
        feature_norm=feature_norm,
        clipping=clipping,
        sampling=rates.sampling,
        adjacency=budget.adjacency,
    )
    target = Target.of(budget)
    if target is None:
        return plan
    # Norms and the number of units have no say in the loss.
    alone = replace(plan, max_grad_norm=1.0, feature_norm=1.0)
    return replace(plan, noise_multiplier=calibrate(alone, target, PreconditionedPlan.loss))
