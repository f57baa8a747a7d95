"""Logistic regression on frozen features, with a random linear term in its objective (Kifer et al. 2012)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from dptrain.contracts import Budget, Splits
from dptrain.contracts.ranges import NotNegative, Positive
from dptrain.mechanisms.head_once import Batch
from dptrain.mechanisms.logistic_once import LogisticOnce
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.perturbed_objective import ObjectivePlan, calibrated, perturbed_minimum
from dptrain.privacy.ridge_logistic import Minimum
from dptrain.training.fit import units_of


@dataclass(frozen=True, kw_only=True)
class ObjectivePerturbation(LogisticOnce[ObjectivePlan]):
    """A linear head by multinomial logistic regression with a ridge and a random linear term.

    Where the records bend the objective, the linear term moves its minimum little: noise lies in directions
    that they say nothing about, which the ridge holds down. Its weight, in records, is public:
    `ridge_per_noise` times the noise multiplier, and `least_ridge` at least, which is the control's.
    """

    name: ClassVar[str] = "mechanism=objective_perturbation"
    behind: ClassVar[str] = "the noisy minimum of the perturbed objective"

    ridge_per_noise: NotNegative = 2.5
    least_ridge: Positive = 1.0

    def plan(self, splits: Splits, budget: Budget) -> ObjectivePlan:
        plan = ObjectivePlan(
            units=len(units_of(splits, budget)),
            noise_multiplier=1.0,
            ridge_per_noise=self.ridge_per_noise,
            least_ridge=self.least_ridge,
            feature_norm=self.feature_norm,
            classes=splits.num_classes,
            alone=budget.unit == "record",
            adjacency=budget.adjacency,
        )
        return calibrated(plan, budget)

    def draws_for(self, features: int, outputs: int) -> int:
        return 2 * (features + 1) * outputs

    def make(
        self,
        batches: Callable[[], Iterator[Batch]],
        plan: ObjectivePlan,
        splits: Splits,
        noise: NoiseSource | None,
    ) -> Minimum:
        return perturbed_minimum(self.rows(batches), plan, self.offsets(splits), noise)

    def without_noise(self) -> Self:
        """Without the ridge that noise needs."""
        return replace(self, ridge_per_noise=0.0)
