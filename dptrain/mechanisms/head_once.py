"""A linear head on a frozen part from what is noised once: what mechanisms without steps have in common."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from dptrain.contracts import Access, Budget, Context, Guarantee, Mechanism, Release, Sensitivity, Splits
from dptrain.contracts.ranges import Positive
from dptrain.mechanisms.linear_head import check_task, clipped_head, linear_of
from dptrain.models.frozen import split
from dptrain.privacy import accountant
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, OUTSIDE, DPGuarantee, NoGuarantee
from dptrain.privacy.independence.check import TESTED
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, randomness
from dptrain.privacy.one_release import OneRelease
from dptrain.tasks import task_of
from dptrain.training import released_once
from dptrain.training.features import CHUNK, Features, Trained
from dptrain.training.loop import evaluate
from dptrain.training.settings import Settings
from dptrain.training.tested import frozen_part, refuse_company, refuse_dependence, refuse_dependent_release

Part = Annotated[float, Gt(0), Lt(1)]
Batch = tuple[Tensor, Tensor, Tensor]  # features (n, d), labels (n,), weights (n,)
Head = tuple[Tensor, Tensor]  # weight (outputs, features), bias (outputs,)
Planned = TypeVar("Planned", bound=OneRelease)
Made = TypeVar("Made")  # a dataclass of tensors


@dataclass(frozen=True, kw_only=True)
class HeadOnce(ABC, Generic[Planned, Made]):
    """A linear head on features that are clipped to `feature_norm`, in the released model too.

    Rows are features and a constant, which takes the share `constant` of a record's squared length. There are
    no steps, and so no transcript that an attack could watch: what is released is computed once. Records of a
    unit that has several count less, each for its part.
    """

    offers: ClassVar[frozenset[Access]] = frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS})
    name: ClassVar[str]
    made: ClassVar[type]  # of what is paid for
    most_features: ClassVar[int | None] = None
    behind: ClassVar[str]  # what the guarantee covers besides the weights

    settings: Settings
    feature_norm: Positive = 20.0
    constant: Part = 0.05

    @abstractmethod
    def plan(self, splits: Splits, budget: Budget) -> Planned:
        """What `fit` will do, calibrated to the budget."""

    @abstractmethod
    def draws_for(self, features: int, outputs: int) -> int:
        """How many normal numbers are drawn for so many features and outputs."""

    def draws(self, model: nn.Module, splits: Splits, plan: Planned) -> int:  # noqa: ARG002
        """How many normal numbers `fit` adds."""
        return self.draws_for(linear_of(model, self.name).in_features, splits.num_classes)

    @abstractmethod
    def make(
        self,
        batches: Callable[[], Iterator[Batch]],
        plan: Planned,
        splits: Splits,
        noise: NoiseSource | None,
    ) -> Made:
        """What is paid for, with the noise that the plan claims; without it where there is no source."""

    @abstractmethod
    def head(self, made: Made, plan: Planned, splits: Splits) -> Head:
        """The linear layer that follows from it, on features as they are."""

    def without_noise(self) -> Self:
        """The mechanism as it is where there is no noise to provide for."""
        return self

    def control(self, settings: Settings) -> Mechanism:
        """The same head without noise: the control of every attack."""
        return WithoutNoise(settings=settings, private=self)

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model with clipped features, found to treat each record by itself."""
        check_task(splits, self.settings, self.name)
        prepared = clipped_head(model, self.feature_norm, self.name, most=self.most_features)
        refuse_dependence(prepared, splits, self.settings)
        return prepared

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan = self.plan(splits, budget)
        prepared = self.prepare(model, splits)
        unchanged = frozen_part(prepared)
        size = linear_of(prepared, self.name).in_features + 1
        drawn = self.draws(prepared, splits, plan)
        curve = accountant.Curve(plan, budget.delta, parameters=drawn)
        spent = curve.points[-1][1]
        refuse_costly(plan, drawn, epsilon=spent, delta=budget.delta)
        deterministic = context.streams.deterministic

        def release(trained: Trained) -> Made:
            noise = NoiseSource(context.streams.secret("noise"))
            return self.make(partial(batches_of, trained, splits, budget, context), plan, splits, noise)

        trained = trained_head(prepared, splits, self.settings, context)
        refuse_company(trained.whole, splits, context)
        frozen = _frozen(trained, context)
        made_by = trained.made_by if frozen is None else frozen.digest.hexdigest()
        terms = {"plan": asdict(plan), "made_by": made_by, "size": size}
        made: Made = released_once.get(
            context.folder, terms, partial(release, trained), epsilon=spent, kind=self.made
        )
        found = self.released(trained, prepared, made, plan, splits, context)
        refuse_dependent_release(found, splits, frozen=unchanged)
        context.trained_at_once(spent)
        return found, DPGuarantee(
            plan=plan,
            budget=budget,
            sensitivity=Sensitivity(most=plan.most, independence=TESTED),
            randomness=replace(
                randomness(plan, drawn, on_cpu=True, secret=not deterministic, sampled=False), grid=plan.grid
            ),
            outside=OUTSIDE,
            released=f"the final weights; the guarantee covers {self.behind} behind them as well",
            void=BY_PUBLIC_SEED if deterministic else None,
            curve=curve.points,
        )

    def released(
        self, trained: Trained, blank: nn.Module, made: Made, plan: Planned, splits: Splits, context: Context
    ) -> Release:
        """The model with the head that follows from what was made."""
        weight, bias = self.head(made, plan, splits)
        linear = linear_of(trained.whole, self.name)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        task = task_of(splits)
        measured, loss = evaluate(trained.part, trained.splits.holdout, context, task)
        context.tracker.metric(f"holdout/{task.metric}", measured, 1)
        context.tracker.metric("holdout/loss", loss, 1)
        return Release(
            architecture=partial(copy.deepcopy, blank),
            weights=trained.weights(trained.part.state_dict()),
            published=((1, measured, loss),),
            device=context.device,
            task=splits.task,
        )


@dataclass(frozen=True, kw_only=True)
class WithoutNoise:
    """The head of a private mechanism without its noise, and without what provides for noise."""

    offers: ClassVar[frozenset[Access]] = HeadOnce.offers
    at_once: ClassVar[bool] = True  # no steps: one equation is solved

    settings: Settings
    private: HeadOnce[Any, Any]

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        return self.private.prepare(model, splits)

    def plan(self, splits: Splits, budget: Budget) -> None:  # noqa: ARG002
        """Nothing is spent, for nothing is promised."""
        return

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        silent = self.private.without_noise()
        prepared = silent.prepare(model, splits)
        trained = trained_head(prepared, splits, self.settings, context)
        # Of the plan only what has nothing to do with noise is asked for.
        named = replace(budget, epsilon=None, advantage=None, tpr_at_fpr=None, noise_multiplier=1.0)
        plan = silent.plan(splits, named)
        made = silent.make(partial(batches_of, trained, splits, budget, context), plan, splits, None)
        release = silent.released(trained, prepared, made, plan, splits, context)
        context.trained_at_once(math.inf)
        return release, NoGuarantee(budget=budget)


def batches_of(
    trained: Trained, splits: Splits, budget: Budget, context: Context, *, held_out: bool = False
) -> Iterator[Batch]:
    """Features, labels and weights of the training records, batch by batch, on the CPU.

    Or of those that are `held_out`, all of weight 1.
    """
    frozen = _frozen(trained, context)
    records = trained.splits.holdout if held_out else trained.splits.train
    every = torch.ones(len(records)).double() if held_out else _weights(splits, budget)
    for number, batch in enumerate(records.batches(CHUNK)):
        features = batch.inputs if frozen is None else frozen.of_each(batch.inputs)
        weights = every[number * CHUNK : number * CHUNK + len(batch)]
        yield features.flatten(1).cpu(), batch.labels, weights


def trained_head(model: nn.Module, splits: Splits, settings: Settings, context: Context) -> Trained:
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
