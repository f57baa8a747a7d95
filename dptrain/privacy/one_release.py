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
    """What is released once of all records, at the cost of a single Gaussian mechanism of a known mu."""

    units: int
    noise_multiplier: float
    adjacency: str = "add_remove"

    steps: ClassVar[int] = 1  # all at once

    @property
    @abstractmethod
    def mu(self) -> float:
        """Parameter of the Gaussian mechanism that costs as much (Dong et al. 2022)."""

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


def calibrated(plan: Once, budget: Budget) -> Once:
    """The plan with the noise that spends exactly this budget, or with the noise that the budget names."""
    if budget.units_public:
        check_delta(budget.delta, plan.units, budget.unit)
    target = Target.of(budget)
    if target is None:
        assert budget.noise_multiplier is not None
        return replace(plan, noise_multiplier=budget.noise_multiplier)
    unit = replace(plan, noise_multiplier=1.0)
    # The number of units has no say in the loss: plans that differ in it alone are calibrated once.
    alone = replace(unit._alone(), units=1, expected_batch_size=1, noise_multiplier=math.nan)
    return replace(plan, noise_multiplier=unit.mu * calibrate(alone, target))
