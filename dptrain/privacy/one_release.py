"""The plan of a mechanism that releases once, with Gaussian noise: no steps, no sampling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from dp_accounting import DpEvent, GaussianDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld

from dptrain.contracts import Budget, PrivacyLoss
from dptrain.privacy.accountant import DPSGDPlan, grid, privacy_loss
from dptrain.privacy.plan import Target, calibrate, check_delta


@dataclass(frozen=True, kw_only=True)
class OneRelease(ABC):
    """What is released once of all records."""

    units: int
    noise_multiplier: float
    adjacency: str = "add_remove"

    steps: ClassVar[int] = 1  # all at once

    @property
    @abstractmethod
    def most(self) -> float:
        """How far one change of the data set moves what is noised, where the noise is `noise_multiplier`."""

    @property
    @abstractmethod
    def fresh_std(self) -> float:
        """Standard deviation of the noise on most of what is released."""

    @property
    @abstractmethod
    def grid(self) -> float:
        """The coarsest grid that noisy numbers are rounded to, in standard deviations of their noise."""

    @abstractmethod
    def describe(self) -> tuple[tuple[str, str], ...]:
        """What is done, and under which public constants, by what it is about."""

    @property
    @abstractmethod
    def interval(self) -> float:
        """The finest interval that losses can be rounded up to."""

    @abstractmethod
    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        """Privacy loss distribution of the release, or of nothing (`steps` 0)."""


@dataclass(frozen=True, kw_only=True)
class GaussianRelease(OneRelease):
    """What is released once at the cost of a single Gaussian mechanism of a known mu."""

    @property
    @abstractmethod
    def mu(self) -> float:
        """Parameter of the Gaussian mechanism that costs as much (Dong et al. 2022)."""

    @property
    def most(self) -> float:
        return self.mu * self.noise_multiplier

    @property
    def interval(self) -> float:
        return grid(self._alone())

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        interval = self.interval if interval is None else interval
        if steps == 0:
            return pld.identity(interval)
        return privacy_loss(self._alone(), interval=interval)

    def event(self) -> DpEvent:
        return GaussianDpEvent(1.0 / self.mu)

    def _alone(self) -> DPSGDPlan:
        """One Gaussian mechanism that costs what all of this does."""
        return DPSGDPlan(
            units=self.units,
            sample_rate=1.0,
            steps=1,
            expected_batch_size=max(1, self.units),
            max_grad_norm=1.0,
            noise_multiplier=1.0 / self.mu,
        )


Once = TypeVar("Once", bound=OneRelease)
Gaussian = TypeVar("Gaussian", bound=GaussianRelease)


def calibrated(plan: Gaussian, budget: Budget) -> Gaussian:
    """The plan with the noise that spends exactly this budget, or with the noise that the budget names."""
    target = target_of(plan, budget)
    if target is None:
        return with_named_noise(plan, budget)
    unit = replace(plan, noise_multiplier=1.0)
    # The number of units has no say in the loss: plans that differ in it alone are calibrated once.
    alone = replace(unit._alone(), units=1, expected_batch_size=1, noise_multiplier=math.nan)
    return replace(plan, noise_multiplier=unit.mu * calibrate(alone, target))


def target_of(plan: OneRelease, budget: Budget) -> Target | None:
    """What the budget asks for (None: it names the noise); raises ConfigError for too large a delta."""
    if budget.units_public:
        check_delta(budget.delta, plan.units, budget.unit)
    return Target.of(budget)


def with_named_noise(plan: Once, budget: Budget) -> Once:
    """The plan with the noise that the budget names."""
    assert budget.noise_multiplier is not None
    return replace(plan, noise_multiplier=budget.noise_multiplier)
