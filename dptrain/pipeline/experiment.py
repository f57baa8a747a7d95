"""What the trainings and the attacks of one run share, and each of them in turn: train, twin, attack."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import nn

from dptrain.assembly.components import Parts
from dptrain.assembly.outputs import make_outputs
from dptrain.config import Config
from dptrain.contracts import (
    Budget,
    Context,
    Guarantee,
    Mechanism,
    NotRun,
    Release,
    Splits,
    Utility,
)
from dptrain.evaluation.assignment import Coins
from dptrain.evaluation.failures import reason
from dptrain.evaluation.scorer import Court
from dptrain.evaluation.shadows import ShadowTrainer
from dptrain.evaluation.stage import Measured, Stage, Subject, measure
from dptrain.report.console import Console
from dptrain.runs.cache import Cache, content_key, without_privacy
from dptrain.tasks import task_of


class _NotKept(Exception):
    """A twin that must not be kept for others, because an attack failed while it looked on."""

    def __init__(self, made: dict[str, Any]) -> None:
        super().__init__()
        self.made = made


SHAPES_A_TRAINING = ("model", "optimizer", "mechanism", "training", "privacy", "control")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The records, the model, what coins decided, and where results are kept.

    `context` surrounds every training but the one that is released: it has no folder and tells
    nobody of its metrics.
    """

    config: Config
    parts: Parts
    splits: Splits
    coins: Coins
    model: nn.Module
    budget: Budget
    context: Context
    cache: Cache
    console: Console

    @cached_property
    def stage(self) -> Stage:
        """The attacks on the release, and what they aim at."""
        return Stage.prepare(self.parts.attacks, self.splits, self.coins).with_shadows(self._shadows)

    @cached_property
    def faint(self) -> Stage:
        """The attacks on the twin, in which canaries are faint and shadow models are never private."""
        shadows = replace(self._shadows, mechanism=self._shadows.plain)
        return self.stage.for_twin().with_shadows(shadows)

    def train(self, context: Context) -> tuple[Subject, Guarantee]:
        """Train what is to be released while attacks look on, in surroundings of its own."""
        return self._fit("train", self.parts.mechanism, self.stage, context)

    def twin(self) -> Subject | None:
        """The non-private twin and what attacks saw of its training, from the cache if it is there."""
        mechanism = self.parts.twin
        if mechanism is None:
            return None
        started = time.perf_counter()
        kept, failed = self._kept_twin(mechanism)
        seen = self.faint.observers()
        for name, watching in seen.items():
            if name in failed:
                watching.error = failed[name]
            else:
                watching.load_state_dict(kept["seen"][name])
        release = Release(
            architecture=partial(copy.deepcopy, self.model),
            weights=kept["weights"],
            device=self.context.device,
            task=self.splits.task,
        )
        return Subject(
            release=release,
            targets=self.faint.targets,
            seen=seen,
            steps=kept["steps"],
            fit_seconds=time.perf_counter() - started,
        )

    def control(self) -> tuple[Subject | None, tuple[NotRun, ...]]:
        """The twin that every attack is controlled by, or None and why there is none.

        The budget is spent by now: a twin that cannot be trained must not keep the run from its end.
        """
        try:
            return self.twin(), ()
        except Exception as error:
            return None, (NotRun(attack="control", reason=f"the non-private twin: {reason(error)}"),)

    def _kept_twin(self, mechanism: Mechanism) -> tuple[Mapping[str, Any], dict[str, Exception]]:
        """What is kept of a twin, and which attacks failed while they looked on: such a twin is not kept."""
        failed: dict[str, Exception] = {}

        def make() -> dict[str, Any]:
            subject, _ = self._fit("train the twin", mechanism, self.faint, self.context)
            failed.update({name: seen.error for name, seen in subject.seen.items() if seen.error is not None})
            made = {
                "weights": dict(subject.release.weights),
                "seen": {name: seen.state_dict() for name, seen in subject.seen.items()},
                "steps": subject.steps,
            }
            if failed:
                raise _NotKept(made)
            return made

        try:
            return self.cache.get(self._twin_key(), make), failed
        except _NotKept as twin:
            return twin.made, failed

    def attack(self, subject: Subject, twin: Subject | None, guarantee: Guarantee) -> Measured:
        """Every attack on the subject, beside the twin, through each interface; judged."""
        streams = self.context.streams
        court = Court(
            splits=self.splits,
            coins=self.coins,
            guarantee=guarantee,
            streams=streams,
            evidence=self.config.evidence,
            device=self.context.device,
            cache=self.cache,
        )
        outputs = make_outputs(self.config.release)
        return measure(self.stage, subject, twin, court, streams, outputs, show=self.console.stage)

    def utility(self, subject: Subject) -> Utility:
        """How well a subject does on the test records."""
        answer = subject.release.queries().confidences
        answers = ((answer(batch.inputs), batch.labels) for batch in self.splits.test.batches())
        return task_of(self.splits).utility(answers, confidence=self.config.evidence.confidence)

    def _fit(
        self, title: str, mechanism: Mechanism, stage: Stage, context: Context
    ) -> tuple[Subject, Guarantee]:
        """Train a copy of the model while the attacks that ask for it look on."""
        started = time.perf_counter()
        observers = stage.observers()
        with self.console.training(title) as progress:
            watched = replace(stage.watched(context, observers), progress=progress)
            release, guarantee = mechanism.fit(copy.deepcopy(self.model), self.splits, self.budget, watched)
        seconds = time.perf_counter() - started
        subject = Subject(
            release=release,
            targets=stage.targets,
            seen=observers,
            steps=self._steps(mechanism, release),
            fit_seconds=seconds,
        )
        return subject, guarantee

    def _steps(self, mechanism: Mechanism, release: Release) -> int | None:
        """How many steps a training had: as planned, or as published of it; None where nobody says."""
        plan = mechanism.plan(self.splits, self.budget)
        if plan is not None:
            return plan.steps
        return release.published[-1][0] if release.published else None

    @cached_property
    def _shadows(self) -> ShadowTrainer:
        """The adversary who trains models of their own, should an attack ask for them."""
        drawing, streams = self.coins.drawing, self.context.streams
        own = streams.seeded("shadows")  # nothing that an attack is handed may lead to the coins
        return ShadowTrainer(
            mechanism=self.parts.mechanism,
            plain=self.parts.plain,
            model=self.model,
            known=self.splits if drawing is None else drawing.known(self.splits),
            probes=self.splits.holdout if drawing is None else drawing.probes,
            budget=self.budget,
            context=replace(self.context, streams=replace(streams, seed=own.initial_seed())),
            recipe=self._recipe,
            cache=self.cache,
            show=self.console.training,
        )

    def _twin_key(self) -> str:
        splits, streams, canaries = self.splits, self.context.streams, self.faint.targets.canaries
        groups = [] if splits.group_ids is None else [splits.group_ids]
        watching = {name: self.config.attack[name] for name in self.stage.watching}
        told = (
            streams.seed,
            streams.deterministic,
            str(self.context.dtype),
            splits.class_prior,
            self.coins.fingerprint(splits),
            asdict(self.config.evidence),
            None if canaries is None else canaries.norm,
            splits.holdout.hashed().hexdigest(),
            *(() if splits.task is None else (repr(splits.task),)),
        )
        return content_key(
            "twin",
            told,
            [*groups, *self.model.state_dict().values()],
            {**without_privacy(self._recipe), "attack": watching},
        )

    @property
    def _recipe(self) -> dict[str, Any]:
        """The sections of the configuration that have a say in what a training comes to."""
        values = asdict(self.config)
        del values["training"]["prefetch"]  # when records are read, and not which
        return {name: values[name] for name in SHAPES_A_TRAINING}
