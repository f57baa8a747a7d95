"""Least squares from noisy second moments of frozen features: one release, no steps (AdaSSP, Wang 2018)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from dptrain.contracts import (
    Access,
    Budget,
    ConfigError,
    Context,
    DoesNotApply,
    Guarantee,
    Mechanism,
    Release,
    Sensitivity,
    Splits,
)
from dptrain.contracts.ranges import NotNegative, Positive
from dptrain.mechanisms.linear_head import check_task, clipped_head, linear_of
from dptrain.models.frozen import split
from dptrain.privacy import accountant
from dptrain.privacy.exact_moments import (
    MOST_RECORDS,
    Moments,
    draws,
    label_norm,
    noised,
    rows_of,
    summed,
    targets_of,
)
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, OUTSIDE, DPGuarantee, NoGuarantee
from dptrain.privacy.independence.check import TESTED
from dptrain.privacy.moments import MomentsPlan, calibrated
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, randomness
from dptrain.tasks import task_of
from dptrain.training import released_once
from dptrain.training.features import CHUNK, Features, Trained
from dptrain.training.fit import units_of
from dptrain.training.least_squares import head_of, ridge_of, solve
from dptrain.training.loop import evaluate
from dptrain.training.settings import Settings
from dptrain.training.tested import frozen_part, refuse_company, refuse_dependence, refuse_dependent_release

Part = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class SufficientStatistics:
    """A linear head by least squares, from clipped and noised second moments of what a frozen part makes.

    A model that ends otherwise is refused. Features are clipped to `feature_norm`, in the released model
    too, and get a constant, which takes the share `constant` of a record's squared length. Of the budget (the
    squared mu of Gaussian differential privacy) `eigenvalue_share` goes to the smallest eigenvalue,
    `cross_share` to the moments of features and labels, and the rest to second moments. `ridge` is the weight
    of the ridge over the size of the noise, `least_ridge` the least weight, in records of full length, and
    the control's; `scale` makes logits of shares of classes.

    There are no steps, and so no transcript that an attack could watch: what is released is computed once.
    Records of a unit that has several count less, each for its part.
    """

    offers: ClassVar[frozenset[Access]] = frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS})

    settings: Settings
    feature_norm: Positive = 20.0
    constant: Part = 0.05
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

    def control(self, settings: Settings) -> Mechanism:
        """The same head without noise: the control of every attack."""
        return WithoutNoise(settings=settings, private=self)

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model with clipped features, found to treat each record by itself."""
        check_task(splits, self.settings)
        prepared = clipped_head(model, self.feature_norm)
        refuse_dependence(prepared, splits, self.settings)
        return prepared

    def plan(self, splits: Splits, budget: Budget) -> MomentsPlan:
        """What `fit` will do, calibrated to the budget."""
        if len(splits.train) > MOST_RECORDS:
            raise DoesNotApply(
                f"mechanism=sufficient_statistics adds up {MOST_RECORDS:,} records exactly, and data "
                f"`{splits.name}` has more; use mechanism=dpsgd"
            )
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

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan = self.plan(splits, budget)
        prepared = self.prepare(model, splits)
        unchanged = frozen_part(prepared)
        size, outputs = linear_of(prepared).in_features + 1, splits.num_classes
        drawn = draws(size, outputs)
        curve = accountant.Curve(plan, budget.delta, parameters=drawn)
        spent = curve.points[-1][1]
        refuse_costly(plan, drawn, epsilon=spent, delta=budget.delta)
        deterministic = context.streams.deterministic

        def release(trained: Trained) -> Moments:
            noise = NoiseSource(context.streams.secret("noise"))
            made = summed(partial(self._batches, trained, splits, budget, context), plan)
            return noised(made, plan, noise.add)

        trained = _trained(prepared, splits, self.settings, context)
        refuse_company(trained.whole, splits, context)
        frozen = _frozen(trained, context)
        made_by = trained.made_by if frozen is None else frozen.digest.hexdigest()
        terms = {"plan": asdict(plan), "made_by": made_by, "size": size}
        moments = released_once.get(context.folder, terms, partial(release, trained), epsilon=spent)
        found = self._release(trained, prepared, moments, plan, splits, context)
        refuse_dependent_release(found, splits, frozen=unchanged)
        context.trained_at_once(spent)
        return found, DPGuarantee(
            plan=plan,
            budget=budget,
            sensitivity=Sensitivity(most=plan.mu * plan.noise_multiplier, independence=TESTED),
            randomness=replace(
                randomness(plan, drawn, on_cpu=True, secret=not deterministic, sampled=False), grid=plan.grid
            ),
            outside=OUTSIDE,
            released="the final weights; the guarantee covers the noisy moments behind them as well",
            void=BY_PUBLIC_SEED if deterministic else None,
            curve=curve.points,
        )

    def exact(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, MomentsPlan]:
        """The head without noise."""
        prepared = self.prepare(model, splits)
        trained = _trained(prepared, splits, self.settings, context)
        plan = replace(
            self.plan(
                splits, replace(budget, epsilon=None, advantage=None, tpr_at_fpr=None, noise_multiplier=1.0)
            ),
            eigenvalue_share=0.0,
        )
        moments = summed(partial(self._batches, trained, splits, budget, context), plan)
        silent = replace(self, ridge=0.0)
        return silent._release(trained, prepared, moments, plan, splits, context), plan

    def _batches(
        self, trained: Trained, splits: Splits, budget: Budget, context: Context
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, targets and weights of the training records, batch by batch, on the CPU."""
        frozen = _frozen(trained, context)
        every = _weights(splits, budget)
        for number, batch in enumerate(trained.splits.train.batches(CHUNK)):
            features = batch.inputs if frozen is None else frozen.of_each(batch.inputs)
            weights = every[number * CHUNK : number * CHUNK + len(batch)]
            yield (
                rows_of(features.flatten(1).cpu(), weights, norm=self.feature_norm, constant=self.constant),
                targets_of(batch.labels, weights, classes=splits.num_classes),
                weights,
            )

    def _release(
        self,
        trained: Trained,
        blank: nn.Module,
        moments: Moments,
        plan: MomentsPlan,
        splits: Splits,
        context: Context,
    ) -> Release:
        """The model with the head that these moments give."""
        weight, bias = head_of(
            solve(moments, ridge_of(moments, plan, strength=self.ridge, least=self.least_ridge)),
            norm=self.feature_norm,
            constant=self.constant,
            scale=self.scale,
            prior=splits.class_prior,
        )
        linear = linear_of(trained.whole)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        task = task_of(splits)
        measured, loss = evaluate(trained.part, trained.splits.holdout, context, task)
        context.tracker.metric(f"holdout/{task.metric}", measured, 1)
        context.tracker.metric("holdout/loss", loss, 1)
        return Release(
            architecture=partial(copy.deepcopy, blank),
            weights=trained.weights(trained.part),
            published=((1, measured, loss),),
            device=context.device,
            task=splits.task,
        )


@dataclass(frozen=True, kw_only=True)
class WithoutNoise:
    """The head of the private mechanism from exact moments, without the ridge that noise needs."""

    offers: ClassVar[frozenset[Access]] = SufficientStatistics.offers

    settings: Settings
    private: SufficientStatistics

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        return self.private.prepare(model, splits)

    def plan(self, splits: Splits, budget: Budget) -> None:  # noqa: ARG002
        """Nothing is spent, for nothing is promised."""
        return

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        release, _ = self.private.exact(model, splits, budget, context)
        context.trained_at_once(math.inf)
        return release, NoGuarantee(budget=budget)


def _trained(model: nn.Module, splits: Splits, settings: Settings, context: Context) -> Trained:
    """A copy of the model where it is to be trained, its features made once where they fit in memory."""
    placed = copy.deepcopy(model).to(context.device, context.dtype)
    return Trained.of(placed, splits, settings, context)


def _frozen(trained: Trained, context: Context) -> Features | None:
    """What makes the features of records; None where they are made."""
    if trained.part is not trained.whole:
        return None
    parts = split(trained.whole)
    assert parts is not None, "a model without a frozen part is refused"
    return Features(parts[0], context)


def _weights(splits: Splits, budget: Budget) -> Tensor:
    """How much each record counts, (n,) float64: all of its unit together for 1."""
    if budget.unit == "record":
        return torch.ones(len(splits.train), dtype=torch.float64)
    assert splits.group_ids is not None, "units_of refuses data without group ids"
    _, unit, sizes = torch.unique(splits.group_ids, return_inverse=True, return_counts=True)
    return 1.0 / sizes[unit].double()
