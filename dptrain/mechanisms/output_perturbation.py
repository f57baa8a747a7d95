"""Logistic regression on frozen features, its minimum released once with noise (Chaudhuri et al. 2011)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from dptrain.contracts import Budget, Splits
from dptrain.contracts.ranges import Positive
from dptrain.mechanisms.head_once import Batch, Head, HeadOnce
from dptrain.privacy.exact_moments import refuse_long, rows_of
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.one_release import calibrated
from dptrain.privacy.perturbed_minimum import Minimum, MinimumPlan, minimum, noised
from dptrain.training.fit import units_of


@dataclass(frozen=True, kw_only=True)
class OutputPerturbation(HeadOnce[MinimumPlan, Minimum]):
    """A linear head by logistic regression with a ridge, found to a tolerance, and noise on its weights.

    The `ridge`, in records, is public: a larger one takes less noise and fits the records less. The control
    has the same ridge and no noise.
    """

    name: ClassVar[str] = "mechanism=output_perturbation"
    made: ClassVar[type] = Minimum
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

    def draws(self, features: int, outputs: int) -> int:
        return (features + 1) * outputs

    def exact(self, batches: Callable[[], Iterator[Batch]], plan: MinimumPlan, splits: Splits) -> Minimum:
        def rows() -> Iterator[Batch]:
            for features, labels, weights in batches():
                full = torch.ones_like(weights)
                made = rows_of(features, full, norm=self.feature_norm, constant=self.constant)
                refuse_long(made, full, 1.0, f"{self.name}: features")
                yield made, labels, weights

        prior = splits.class_prior or (1.0 / splits.num_classes,) * splits.num_classes
        return minimum(rows(), plan, torch.tensor(prior, dtype=torch.float64).log())

    def noisy(self, exact: Minimum, plan: MinimumPlan, noise: NoiseSource) -> Minimum:
        return noised(exact, plan, noise.add)

    def head(self, made: Minimum, plan: MinimumPlan, splits: Splits) -> Head:  # noqa: ARG002
        weight = made.weights[:-1].T * (math.sqrt(1.0 - self.constant) / self.feature_norm)
        return weight, made.weights[-1] * math.sqrt(self.constant)
