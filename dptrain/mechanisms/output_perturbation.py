"""Logistic regression on frozen features, its minimum released once with noise (Chaudhuri et al. 2011)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from dptrain.contracts import Budget, Splits
from dptrain.contracts.ranges import Positive
from dptrain.mechanisms.head_once import Batch
from dptrain.mechanisms.logistic_once import LogisticOnce
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.one_release import calibrated
from dptrain.privacy.perturbed_minimum import TOLERANCE, MinimumPlan, noised
from dptrain.privacy.ridge_logistic import Minimum, minimum
from dptrain.training.fit import units_of


@dataclass(frozen=True, kw_only=True)
class OutputPerturbation(LogisticOnce[MinimumPlan]):
    """A linear head by logistic regression with a ridge, found to a tolerance, and noise on its weights.

    The `ridge`, in records, is public: a larger one takes less noise and fits the records less. The control
    has the same ridge and no noise.
    """

    name: ClassVar[str] = "mechanism=output_perturbation"
    behind: ClassVar[str] = "the noisy minimum"

    ridge: Positive = 30.0

    def plan(self, splits: Splits, budget: Budget) -> MinimumPlan:
        plan = MinimumPlan(
            units=len(units_of(splits, budget)),
            noise_multiplier=1.0,
            ridge=self.ridge,
            feature_norm=self.feature_norm,
            adjacency=budget.adjacency,
        )
        return calibrated(plan, budget)

    def draws_for(self, features: int, outputs: int) -> int:
        return (features + 1) * outputs

    def make(
        self,
        batches: Callable[[], Iterator[Batch]],
        plan: MinimumPlan,
        splits: Splits,
        noise: NoiseSource | None,
    ) -> Minimum:
        found = minimum(
            self.rows(batches), ridge=plan.ridge, offsets=self.offsets(splits), tolerance=TOLERANCE
        )
        return found if noise is None else noised(found, plan, noise.add)
