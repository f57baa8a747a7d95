"""DP-SGD on features that their own noisy second moments make less unequal (Mehta et al. 2023)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from dptrain.contracts import Access, Budget, Context, Guarantee, Mechanism, Release, Sensitivity, Splits
from dptrain.contracts.ranges import NotNegative, Positive
from dptrain.mechanisms.head_once import Batch, HeadOnce, Part, batches_of, trained_head
from dptrain.mechanisms.linear_head import check_task, clipped_head, linear_of
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.mechanisms.sufficient_statistics import MOST_FEATURES
from dptrain.privacy import accountant
from dptrain.privacy.dpsgd import DPSGDEngine, check_choices
from dptrain.privacy.exact_moments import noisy_symmetric, refuse_many, rows_of, summed_squares
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, OUTSIDE, DPGuarantee, NoGuarantee
from dptrain.privacy.independence.check import TESTED
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, on_cpu, randomness, words_on
from dptrain.privacy.preconditioned import PreconditionedPlan, make_preconditioned_plan
from dptrain.tasks import task_of
from dptrain.training import checkpoint, released_once
from dptrain.training.features import Trained
from dptrain.training.fit import fit, units_of
from dptrain.training.settings import Settings
from dptrain.training.tested import frozen_part, refuse_company, refuse_dependence, refuse_dependent_release
from dptrain.training.whitened import SecondMoments, records, transform

OWN_COORDINATES = "its steps are taken on features that only this training has, which it does not show"


@dataclass(frozen=True, kw_only=True)
class Preconditioned:
    """A linear head on features clipped to `feature_norm`, by DP-SGD in coordinates of their covariance.

    Rows are features and a constant, which takes the share `constant` of a record's squared length. Of the
    budget (the squared mu) `covariance_share` goes to second moments, once; by these rows are divided by
    their standard deviation to the power of `power`, with a `ridge` over the size of the noise, and
    `least_ridge`, in records, at least. Steps are taken on such rows, as long as features in the mean, and
    what they find is released as a head of features as they are.
    """

    offers: ClassVar[frozenset[Access]] = HeadOnce.offers
    withheld: ClassVar[Mapping[Access, str]] = {Access.TRANSCRIPT: OWN_COORDINATES}
    name: ClassVar[str] = "mechanism=preconditioned"

    settings: Settings
    max_grad_norm: Positive = 1.0
    clipping: str = "flat"
    engine: str = "bookkeeping"
    audit_sensitivity: bool = True
    feature_norm: Positive = 20.0
    constant: Part = 0.05
    covariance_share: Part = 0.1
    power: Annotated[float, Ge(0), Le(1)] = 1.0
    ridge: NotNegative = 1.0
    least_ridge: Positive = 1.0

    def __post_init__(self) -> None:
        check_choices(self.engine, self.clipping)

    def control(self, settings: Settings) -> Mechanism:
        """The same without noise and clipping of gradients: the control of every attack."""
        return WithoutNoise(settings=settings, private=self)

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model with clipped features, found to treat each record by itself."""
        check_task(splits, self.settings, self.name)
        prepared = clipped_head(model, self.feature_norm, self.name, most=MOST_FEATURES)
        refuse_dependence(prepared, splits, self.settings)
        return prepared

    def plan(self, splits: Splits, budget: Budget) -> PreconditionedPlan:
        """What `fit` will do, calibrated to the budget."""
        refuse_many(splits, self.name)
        return make_preconditioned_plan(
            budget,
            self.settings.rates,
            len(units_of(splits, budget)),
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
            covariance_share=self.covariance_share,
            feature_norm=self.feature_norm,
        )

    def draws(self, model: nn.Module, splits: Splits, plan: PreconditionedPlan) -> int:
        """How many normal numbers `fit` adds: to second moments, and in each step."""
        size = linear_of(model, self.name).in_features + 1
        return size * (size + 1) // 2 + plan.steps * size * splits.num_classes

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan = self.plan(splits, budget)
        prepared = self.prepare(model, splits)
        unchanged = frozen_part(prepared)
        drawn = self.draws(prepared, splits, plan)
        curve = accountant.Curve(plan, budget.delta, parameters=-(-drawn // plan.steps))
        spent = curve.points[-1][1]
        refuse_costly(plan, drawn, epsilon=spent, delta=budget.delta)
        trained = trained_head(prepared, splits, self.settings, context)
        refuse_company(trained.whole, splits, context)
        moments = self._moments(trained, splits, budget, context, plan=plan, epsilon=curve.points[1][1])
        by = self.coordinates(moments, plan.covariance_std)
        head, seen = self.in_coordinates(by, trained, splits, budget, context)
        words = words_on(context.device, context.streams.randomness)
        fitted = fit(
            head,
            seen,
            context,
            settings=self.settings,
            plan=plan.training,
            units=units_of(splits, budget),
            engine=partial(DPSGDEngine, self.engine, plan=plan.training, loss=task_of(splits).loss),
            kind=self.engine,
            noise=NoiseSource(context.streams.secret("noise"), words=words),
            clipping=self.clipping,
            epsilon_at=curve.at_most,
            audit_sensitivity=self.audit_sensitivity,
        )
        release = self.released(fitted.release, by, prepared, trained, context)
        refuse_dependent_release(release, splits, frozen=unchanged)
        audit, ratio = (None, None) if fitted.audit is None else fitted.audit.published()
        deterministic = context.streams.deterministic
        return release, DPGuarantee(
            plan=plan,
            budget=budget,
            sensitivity=Sensitivity(most=plan.most, independence=TESTED, audit=audit, ratio=ratio),
            randomness=randomness(
                plan,
                drawn,
                on_cpu=on_cpu(context.device, context.streams.randomness),
                secret=not deterministic,
            ),
            outside=OUTSIDE,
            released="the final weights; the guarantee covers the noisy second moments and every noisy step",
            void=BY_PUBLIC_SEED if deterministic else None,
            curve=curve.points,
            replayed_steps=0 if fitted.lost else fitted.replayed,
            lost_steps=fitted.lost,
        )

    def _moments(
        self,
        trained: Trained,
        splits: Splits,
        budget: Budget,
        context: Context,
        *,
        plan: PreconditionedPlan,
        epsilon: float,
    ) -> SecondMoments:
        """The noisy second moments; a run that goes on takes those that it has paid for."""
        folder = None if context.folder is None else context.folder / checkpoint.BEFORE
        if folder is not None:
            folder.mkdir(mode=0o700, exist_ok=True)

        def release() -> SecondMoments:
            exact = summed_squares(self.rows(trained, splits, budget, context)(), f"{self.name}: features")
            add = NoiseSource(context.streams.secret("covariance")).add
            return SecondMoments(second=noisy_symmetric(exact, plan.covariance_std, add))

        terms = {"plan": asdict(plan), "made_by": trained.made_by, "constant": self.constant}
        return released_once.get(folder, terms, release, epsilon=epsilon, kind=SecondMoments)

    def rows(
        self, trained: Trained, splits: Splits, budget: Budget, context: Context, *, held_out: bool = False
    ) -> Callable[[], Iterator[Batch]]:
        """Rows of which a unit's together are of length 1 at most, labels and weights, batch by batch."""

        def made() -> Iterator[Batch]:
            for features, labels, weights in batches_of(trained, splits, budget, context, held_out=held_out):
                yield (
                    rows_of(features, weights, norm=self.feature_norm, constant=self.constant),
                    labels,
                    weights,
                )

        return made

    def coordinates(self, moments: SecondMoments, std: float) -> Tensor:
        """What rows are multiplied by before steps are taken, (d, d), of moments with this noise."""
        noise = math.sqrt(2.0) * std * math.sqrt(len(moments.second))  # its largest eigenvalue, about
        return transform(
            moments,
            ridge=max(self.least_ridge, self.ridge * noise),
            power=self.power,
            length=self.feature_norm,
        )

    def in_coordinates(
        self, by: Tensor, trained: Trained, splits: Splits, budget: Budget, context: Context
    ) -> tuple[nn.Module, Splits]:
        """A linear layer, and the records as it sees them."""
        head = nn.Linear(len(by), splits.num_classes, bias=False)
        nn.init.zeros_(head.weight)

        def whole(held_out: bool) -> Iterator[Batch]:
            for rows, labels, weights in self.rows(trained, splits, budget, context, held_out=held_out)():
                yield rows / weights.sqrt()[:, None], labels, weights

        train, holdout = (records(whole(held_out), by, context.dtype) for held_out in (False, True))
        bounds = (-self.feature_norm, self.feature_norm)
        seen = replace(splits, train=train, holdout=holdout, test=holdout, bounds=bounds, raw=None)
        return head, replace(seen, test_group_ids=splits.holdout_group_ids)

    def released(
        self, release: Release, by: Tensor, blank: nn.Module, trained: Trained, context: Context
    ) -> Release:
        """The model whose head does to features what the layer that was trained does to their rows."""
        assert release.weights is not None
        full = release.weights["weight"].double() @ by.T
        linear = linear_of(trained.whole, self.name)
        with torch.no_grad():
            linear.weight.copy_(full[:, :-1] * (math.sqrt(1.0 - self.constant) / self.feature_norm))
            linear.bias.copy_(full[:, -1] * math.sqrt(self.constant))
        return replace(
            release,
            architecture=partial(copy.deepcopy, blank),
            weights=trained.weights(trained.part.state_dict()),
            device=context.device,
        )


@dataclass(frozen=True, kw_only=True)
class WithoutNoise:
    """The same steps without clipping and noise, in coordinates of the exact covariance."""

    offers: ClassVar[frozenset[Access]] = HeadOnce.offers

    settings: Settings
    private: Preconditioned

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        return self.private.prepare(model, splits)

    def plan(self, splits: Splits, budget: Budget) -> None:  # noqa: ARG002
        """Nothing is spent, for nothing is promised."""
        return

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        private = self.private
        prepared = private.prepare(model, splits)
        trained = trained_head(prepared, splits, self.settings, context)
        rows = private.rows(trained, splits, budget, context)
        exact = SecondMoments(second=summed_squares(rows(), f"{private.name}: features"))
        by = private.coordinates(exact, 0.0)
        head, seen = private.in_coordinates(by, trained, splits, budget, context)
        found, _ = NonPrivate(settings=self.settings).fit(head, seen, budget, context)
        return private.released(found, by, prepared, trained, context), NoGuarantee(budget=budget)
