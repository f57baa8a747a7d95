"""Private prediction: teachers on disjoint parts of the records answer queries, with noise."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import ClassVar

from torch import Tensor, nn

from dptrain.contracts import Access, Budget, Context, Guarantee, Mechanism, Release, Splits
from dptrain.contracts.ranges import Count, Positive
from dptrain.privacy import accountant
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, OUTSIDE, DPGuarantee, NoGuarantee
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, randomness
from dptrain.privacy.votes import QueriesPlan, planned
from dptrain.training.ensemble import Ensemble, Replica, shares_of
from dptrain.training.fit import units_of
from dptrain.training.paid_answers import PaidAnswers
from dptrain.training.seen import Seen
from dptrain.training.settings import Settings
from dptrain.training.teachers import parts_of, refuse_other_tasks
from dptrain.training.tested import refuse_company, refuse_dependence

MEASURED_OUTSIDE = (
    "How good answers are, and what attacks made of them, was measured by a replica that answers more than "
    "is paid for, from the training records: these figures are for the owner of the records, and no part of "
    "what is released."
)


@dataclass(frozen=True, kw_only=True)
class PrivatePrediction:
    """An ensemble that answers so many queries, each with noise, and no more (Dwork and Feldman 2018).

    Teachers are ridge classifiers on the frozen features of the model, or on inputs as they are where
    nothing of it is frozen. Asked again, an input has the answer that it had. No weights are released:
    `control()` is the same without noise.
    """

    offers: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES, Access.LABELS})

    settings: Settings
    teachers: Count = 250
    answers: Count = 1000
    ridge: Positive = 0.03
    noisy: bool = True

    def control(self, settings: Settings) -> Mechanism:
        """The same teachers, whose votes are told without noise."""
        return replace(self, settings=settings, noisy=False)

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model, found to treat each record by itself: so do the features that teachers see."""
        refuse_other_tasks(splits, "private_prediction")
        self.settings.refuse_regularisers("mechanism=private_prediction")
        refuse_dependence(model, splits, self.settings)
        return model

    def plan(self, splits: Splits, budget: Budget) -> QueriesPlan | None:
        """How many answers there are, and with how much noise."""
        if not self.noisy:
            return None
        return self.plan_of(budget, units=len(units_of(splits, budget)), classes=splits.num_classes)

    def plan_of(self, budget: Budget, *, units: int, classes: int) -> QueriesPlan:
        """The plan for so many units and classes."""
        plan = QueriesPlan(
            units=units,
            teachers=self.teachers,
            classes=classes,
            questions=self.answers,
            answers=self.answers,
            noise_multiplier=math.nan,
            adjacency=budget.adjacency,
        )
        return planned(plan, budget)

    def draws(self, model: nn.Module, splits: Splits, plan: QueriesPlan) -> int:  # noqa: ARG002
        """How many normal numbers are added to votes, until all answers are spent."""
        return plan.draws

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan = self.plan(splits, budget)
        prepared = self.prepare(model, splits).to(context.device, context.dtype).eval()
        seen = Seen.of_model(prepared, context)
        refuse_company(seen.model, splits, context)
        groups = None if budget.unit == "record" else splits.group_ids
        ensemble = Ensemble.of(
            seen.of(splits.train),
            parts_of(splits.train, groups, self.teachers, context.streams.secret("teachers")),
            teachers=self.teachers,
            classes=splits.num_classes,
            ridge=self.ridge,
        )
        curve = () if plan is None else self._paid_for(plan, budget, context, ensemble, seen)
        measured = _Measured(
            counts=ensemble.counts(seen.of(splits.holdout).inputs),
            labels=splits.holdout.labels,
            std=0.0 if plan is None else plan.noise_std,
            answers=self.answers,
            key=context.streams.secret("measured"),
        )
        release = Release(
            predictions=Replica(
                ensemble=ensemble, seen=seen, std=measured.std, key=context.streams.secret("replica")
            ),
            answers=None if plan is None else self.answers,
            published=measured.published,
            device=context.device,
        )
        if plan is None:
            context.trained_at_once(math.inf)
            return release, NoGuarantee(budget=budget)
        deterministic = context.streams.deterministic
        return release, DPGuarantee(
            plan=plan,
            budget=budget,
            randomness=randomness(plan, plan.draws, on_cpu=True, secret=not deterministic, sampled=False),
            released=f"the first {plan.answers:,} answers to whoever asks, whatever is asked; no weights",
            outside=(*OUTSIDE, MEASURED_OUTSIDE),
            void=BY_PUBLIC_SEED if deterministic else None,
            curve=curve,
        )

    def _paid_for(
        self, plan: QueriesPlan, budget: Budget, context: Context, ensemble: Ensemble, seen: Seen
    ) -> tuple[tuple[int, float], ...]:
        """Epsilon by the number of answers, once teachers and an empty ledger lie in the folder."""
        curve = accountant.Curve(plan, budget.delta, parameters=plan.classes + 1)
        epsilon = curve.points[-1][1]
        refuse_costly(plan, plan.draws, epsilon=epsilon, delta=budget.delta)
        if context.folder is not None:
            ensemble.save(context.folder, made_by=seen.made_by)
            PaidAnswers.begin(context.folder, most=plan.answers, std=plan.noise_std)
        context.trained_at_once(epsilon)
        return tuple(curve.points)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """How good answers are on held-out records, had the budget been for fewer of them too."""

    counts: Tensor  # of votes, without noise: (n, classes)
    labels: Tensor
    std: float
    answers: int
    key: bytes  # of noise that nobody else draws: votes do not follow from what was measured

    @cached_property
    def published(self) -> tuple[tuple[int, float, float], ...]:
        """Number of answers, accuracy and loss, for a part of the answers and for all: the last."""
        numbers = sorted({max(1, self.answers // part) for part in (8, 4, 2)} | {self.answers})
        return tuple((number, *self._at(number)) for number in numbers)

    def _at(self, answers: int) -> tuple[float, float]:
        """Where the budget is for so many answers, their noise is less by the root of the ratio."""
        std = self.std * math.sqrt(answers / self.answers)
        key = hmac.digest(self.key, str(answers).encode(), sha256)
        (counts,) = (self.counts,) if std == 0.0 else NoiseSource(key).add([self.counts], std)
        shares = shares_of(counts)
        right = shares.argmax(1) == self.labels
        taken = shares.gather(1, self.labels[:, None]).log()
        return float(right.double().mean()), float(-taken.mean())
