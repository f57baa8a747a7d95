"""PATE: teachers on disjoint parts of the records vote, with noise, on public inputs; a student learns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dptrain.contracts import (
    Access,
    Budget,
    ConfigError,
    Context,
    DoesNotApply,
    Guarantee,
    Mechanism,
    Records,
    Release,
    Splits,
    keyed_uniform,
    seed_key,
)
from dptrain.contracts.ranges import Count, NotNegative, Positive, Share
from dptrain.privacy import accountant
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, OUTSIDE, DPGuarantee, NoGuarantee
from dptrain.privacy.noise.cost import refuse_costly
from dptrain.privacy.noise.source import NoiseSource, randomness
from dptrain.privacy.votes import VotesPlan, noisy_counts, planned
from dptrain.tasks import task_of
from dptrain.training.answers import Answers, keep, kept
from dptrain.training.fit import units_of
from dptrain.training.loop import evaluate
from dptrain.training.seen import Seen
from dptrain.training.settings import Settings
from dptrain.training.student import Graph, fit_student, trusted
from dptrain.training.teachers import counts_of, parts_of, refuse_other_tasks, votes
from dptrain.training.tested import refuse_company, refuse_dependence

FEWEST = 20  # public inputs to learn from
RELEASED = (
    "the student's weights; the guarantee covers every noisy answer, and whatever else is made of these"
)


@dataclass(frozen=True, kw_only=True)
class PATE:
    """Private aggregation of teacher ensembles (Papernot et al. 2017, 2018), accounted data-independently.

    Teachers are ridge classifiers on the frozen features of the model, or on inputs as they are where
    nothing of it is frozen; the student is the model. `control()` is the same without noise.
    """

    offers: ClassVar[frozenset[Access]] = frozenset({Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS})

    settings: Settings
    teachers: Count = 250
    questions: Count = 200
    threshold: Share | None = None
    answers: Count | None = None
    check_ratio: Positive = 5.0
    public_from_holdout: Share = 0.0
    ridge: Positive = 0.03
    student_steps: Count = 300
    student_batch: Count = 1000
    student_lr: Positive = 0.01
    student_weight_decay: NotNegative = 0.003
    noisy: bool = True

    def __post_init__(self) -> None:
        if self.threshold is None and self.answers is not None:
            raise ConfigError(
                f"mechanism.answers={self.answers} needs mechanism.threshold, by which inputs are chosen "
                "that are answered; give one such as 0.6, or set mechanism.answers to null"
            )
        if self.answers is not None and self.answers > self.questions:
            raise ConfigError(
                f"mechanism.answers={self.answers} is more than mechanism.questions={self.questions}; ask "
                "about more inputs"
            )

    def control(self, settings: Settings) -> Mechanism:
        """The same teachers and student, from counts without noise."""
        return replace(self, settings=settings, noisy=False)

    def declare(self, splits: Splits, rng: torch.Generator) -> Splits:
        """The splits with the held-out records that the configuration declares public as their public part.

        Each by a keyed hash of its group id or inputs. They are held out no more: no attack, and no measure
        of utility, meets an input that the student has seen.
        """
        if splits.public is not None or self.public_from_holdout == 0.0:
            return replace(splits, public_seen=splits.public is not None)
        groups = splits.holdout_group_ids
        units = splits.holdout.digests() if groups is None else groups
        key = splits.key or seed_key(rng)
        taken = keyed_uniform(key, "public", units) < self.public_from_holdout
        rest = (~taken).nonzero().squeeze(1)
        return replace(
            splits,
            public=splits.holdout.take(taken.nonzero().squeeze(1)),
            public_seen=True,
            public_origin="the inputs, without labels, of held-out records: of so many as "
            f"mechanism.public_from_holdout={self.public_from_holdout:g} declares public, by a keyed hash",
            holdout=splits.holdout.take(rest),
            holdout_group_ids=None if groups is None else groups[rest],
        )

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model, found to treat each record by itself: so do the features that teachers see."""
        self.settings.refuse_regularisers("mechanism=pate")
        refuse_dependence(model, splits, self.settings)
        return model

    def plan(self, splits: Splits, budget: Budget) -> VotesPlan | None:
        """What is asked, and with how much noise; raises ConfigError where there is nobody to ask."""
        self._check(splits)
        if not self.noisy:
            return None
        answers = self.questions if self.answers is None else self.answers
        plan = VotesPlan(
            units=len(units_of(splits, budget)),
            teachers=self.teachers,
            classes=splits.num_classes,
            questions=self.questions,
            answers=answers,
            noise_multiplier=math.nan,
            threshold=None if self.threshold is None else self.threshold * self.teachers,
            check_ratio=self.check_ratio,
            adjacency=budget.adjacency,
        )
        return planned(plan, budget)

    def draws(self, model: nn.Module, splits: Splits, plan: VotesPlan) -> int:  # noqa: ARG002
        """How many normal numbers `fit` adds to votes."""
        return plan.draws

    def _check(self, splits: Splits) -> None:
        refuse_other_tasks(splits, "pate")
        if splits.public is None:
            raise DoesNotApply(
                f"mechanism=pate asks about public inputs, and data `{splits.name}` declares none; give it a "
                "public part (of data=npz public_images), or declare a share of the held-out records public "
                "by mechanism.public_from_holdout=0.8, which the statement then says"
            )
        least = max(FEWEST, self.questions + 2)
        if len(splits.public) < least:
            raise ConfigError(
                f"mechanism.questions={self.questions} needs at least {least} public inputs, and there are "
                f"{len(splits.public)}; ask less, or declare more of them public"
            )

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        plan, public = self.plan(splits, budget), splits.public
        assert public is not None, "there is no plan without"
        blank = copy.deepcopy(model)
        seen = Seen.of_model(self.prepare(model, splits).to(context.device, context.dtype).eval(), context)
        refuse_company(seen.model, splits, context)
        inputs = seen.of(public).inputs
        graph = Graph.of(inputs)
        seed = context.streams.seeded("questions").initial_seed() % 2**31
        asked, sizes = graph.choose(self.questions, seed)
        count = partial(self._counts, seen, inputs[asked], splits, budget, context)
        answers = count() if plan is None else self._paid(plan, public.take(asked), count, context, budget)
        fit_student(
            seen.part,
            inputs.to(context.device),
            graph.spread(asked, trusted(answers), sizes).to(context.device),
            steps=self.student_steps,
            batch=self.student_batch,
            lr=self.student_lr,
            weight_decay=self.student_weight_decay,
            rng=context.streams.seeded("student"),
        )
        task = task_of(splits)
        measured, loss = evaluate(seen.part, seen.of(splits.holdout), context, task)
        context.tracker.metric(f"holdout/{task.metric}", measured, self.questions)
        context.tracker.metric("holdout/loss", loss, self.questions)
        release = Release(
            architecture=partial(copy.deepcopy, blank),
            weights={name: each.detach().cpu().clone() for name, each in seen.model.state_dict().items()},
            published=((self.questions, measured, loss),),
            device=context.device,
            task=splits.task,
        )
        if plan is None:
            context.trained_at_once(math.inf)
            return release, NoGuarantee(budget=budget)
        return release, _guarantee(plan, budget, context)

    def _counts(self, seen: Seen, asked: Tensor, splits: Splits, budget: Budget, context: Context) -> Tensor:
        """Counts of the teachers' votes (questions, classes), without noise: shown to nobody."""
        groups = None if budget.unit == "record" else splits.group_ids
        part = parts_of(splits.train, groups, self.teachers, context.streams.secret("teachers"))
        said = votes(
            seen.of(splits.train),
            part,
            asked,
            teachers=self.teachers,
            classes=splits.num_classes,
            ridge=self.ridge,
        )
        return counts_of(said, splits.num_classes)

    def _paid(
        self,
        plan: VotesPlan,
        asked: Records,
        count: Callable[[], Tensor],
        context: Context,
        budget: Budget,
    ) -> Tensor:
        """Noisy counts (questions, classes): those that are kept in the folder, else new ones, kept first."""
        curve = accountant.Curve(plan, budget.delta, anchors=1, parameters=plan.classes + 1)
        epsilon = curve.points[-1][1]
        refuse_costly(plan, plan.draws, epsilon=epsilon, delta=budget.delta)
        answers = None if context.folder is None else kept(context.folder, plan, asked)
        if answers is None:
            noise = NoiseSource(context.streams.secret("noise"))
            answers = Answers(plan=plan, asked=asked.digests(), counts=noisy_counts(count(), plan, noise))
            if context.folder is not None:
                keep(answers, context.folder)  # before anything is made of them
        context.trained_at_once(epsilon)
        return answers.counts


def _guarantee(plan: VotesPlan, budget: Budget, context: Context) -> DPGuarantee:
    deterministic = context.streams.deterministic
    curve = accountant.Curve(plan, budget.delta, parameters=plan.classes + 1)
    return DPGuarantee(
        plan=plan,
        budget=budget,
        randomness=randomness(plan, plan.draws, on_cpu=True, secret=not deterministic, sampled=False),
        released=RELEASED,
        outside=OUTSIDE,
        void=BY_PUBLIC_SEED if deterministic else None,
        curve=curve.points,
    )
