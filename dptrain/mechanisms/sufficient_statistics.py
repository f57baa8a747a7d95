"""Least squares from noisy second moments of frozen features: one release, no steps (AdaSSP, Wang 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from annotated_types import Ge, Lt

from dptrain.contracts import Budget, ConfigError, Splits
from dptrain.contracts.ranges import NotNegative, Positive
from dptrain.mechanisms.head_once import Batch, Head, HeadOnce, Part
from dptrain.privacy.exact_moments import (
    Moments,
    draws,
    label_norm,
    noised,
    refuse_many,
    rows_of,
    summed,
    targets_of,
)
from dptrain.privacy.moments import MomentsPlan
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.one_release import calibrated
from dptrain.training.fit import units_of
from dptrain.training.least_squares import head_of, ridge_of, solve

MOST_FEATURES = 10_000  # whose moments take 0.8 GB, and minutes to be solved


@dataclass(frozen=True, kw_only=True)
class SufficientStatistics(HeadOnce[MomentsPlan, Moments]):
    """A linear head by least squares, from clipped and noised second moments of what a frozen part makes.

    A model that ends otherwise is refused. Features are clipped to `feature_norm`, in the released model
    too, and get a constant, which takes the share `constant` of a record's squared length. Of the budget (the
    squared mu of Gaussian differential privacy) `eigenvalue_share` goes to the smallest eigenvalue,
    `cross_share` to the moments of features and labels, and the rest to second moments. `ridge` is the weight
    of the ridge over the size of the noise, `least_ridge` the least weight, in records of full length, and
    the control's; `scale` makes logits of shares of classes.
    """

    name: ClassVar[str] = "mechanism=sufficient_statistics"
    made: ClassVar[type] = Moments
    most_features: ClassVar[int | None] = MOST_FEATURES
    behind: ClassVar[str] = "the noisy moments"

    eigenvalue_share: Annotated[float, Ge(0), Lt(1)] = 0.05
    cross_share: Part = 0.5
    ridge: NotNegative = 0.5
    least_ridge: Positive = 1.0
    scale: Positive = 10.0

    def __post_init__(self) -> None:
        if self.eigenvalue_share + self.cross_share >= 1.0:
            raise ConfigError(
                f"mechanism.cross_share={self.cross_share:g} and mechanism.eigenvalue_share="
                f"{self.eigenvalue_share:g} leave nothing of the budget for second moments; choose less than "
                "1 together"
            )

    def plan(self, splits: Splits, budget: Budget) -> MomentsPlan:
        refuse_many(splits, self.name)
        plan = MomentsPlan(
            units=len(units_of(splits, budget)),
            noise_multiplier=1.0,
            eigenvalue_share=self.eigenvalue_share,
            second_share=1.0 - self.eigenvalue_share - self.cross_share,
            cross_share=self.cross_share,
            feature_norm=self.feature_norm,
            label_norm=label_norm(splits.num_classes),
            adjacency=budget.adjacency,
        )
        return calibrated(plan, budget)

    def draws_for(self, features: int, outputs: int) -> int:
        return draws(features + 1, outputs)

    def make(
        self,
        batches: Callable[[], Iterator[Batch]],
        plan: MomentsPlan,
        splits: Splits,
        noise: NoiseSource | None,
    ) -> Moments:
        def rows() -> Iterator[Batch]:
            for features, labels, weights in batches():
                yield (
                    rows_of(features, weights, norm=self.feature_norm, constant=self.constant),
                    targets_of(labels, weights, classes=splits.num_classes),
                    weights,
                )

        exact = summed(rows, plan)
        return exact if noise is None else noised(exact, plan, noise.add)

    def head(self, made: Moments, plan: MomentsPlan, splits: Splits) -> Head:
        return head_of(
            solve(made, ridge_of(made, plan, strength=self.ridge, least=self.least_ridge)),
            norm=self.feature_norm,
            constant=self.constant,
            scale=self.scale,
            prior=splits.class_prior,
        )

    def without_noise(self) -> Self:
        """Without the ridge that noise needs, and the eigenvalue that it is chosen by."""
        return replace(self, ridge=0.0, eigenvalue_share=0.0)
