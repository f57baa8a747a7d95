"""An experiment: what the trainings and attacks of one run share, and each of them in turn."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from dptrain.assembly.components import Parts
from dptrain.assembly.model import make_model
from dptrain.assembly.records import declare_public, load_splits
from dptrain.assembly.values import given_output, make_budget, make_context, make_outputs, make_streams
from dptrain.config import Config
from dptrain.contracts import (
    Access,
    Budget,
    Context,
    DptrainError,
    Game,
    Guarantee,
    Mechanism,
    NotRun,
    Plan,
    Ranks,
    Splits,
    Tracker,
    Utility,
    wants_shadows,
)
from dptrain.evaluation import preconditions
from dptrain.evaluation.assignment import Assignments, declared_units, prepare, split_known
from dptrain.evaluation.failures import reason
from dptrain.evaluation.scorer import Measured, Scorer, measure
from dptrain.evaluation.shadows import ShadowTrainer
from dptrain.evaluation.stage import Stage, Subject
from dptrain.evaluation.utility import measure_utility
from dptrain.evidence import criteria
from dptrain.evidence.criteria import Condition
from dptrain.evidence.held_out import count_copies
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.pipeline import cache_keys
from dptrain.pipeline.control import kept_or_trained
from dptrain.pipeline.feature_store import feature_store
from dptrain.privacy.noise.cost import draws_of
from dptrain.report.console import Console
from dptrain.runs.cache import Cache
from dptrain.runs.features import FeatureStore
from dptrain.storage import Unwritable
from dptrain.tasks import task_of
from dptrain.training.features import on_features

CACHE = "cache"  # in the folder of all runs
OF_A_MODEL = frozenset(Access) - {Access.TRANSCRIPT}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything of a run that is settled before training begins, and each training and attack in turn."""

    config: Config
    parts: Parts
    conditions: tuple[Condition, ...]  # of fail_if
    left_out: tuple[NotRun, ...]  # attacks that these records, or this model, do not serve
    splits: Splits
    copies: Mapping[str, int]  # records that occur several times
    assignments: Assignments
    model: nn.Module
    budget: Budget
    plan: Plan | None
    console: Console
    ranks: Ranks | None = None  # that compute trainings together

    @classmethod
    def assemble(
        cls,
        config: Config,
        parts: Parts,
        console: Console,
        *,
        played: Mapping[str, Game] | None,
        asked: Collection[str] = (),
        units: int | None = None,
        accept: Callable[[Assignments, Splits], None] = lambda *_: None,
        ranks: Ranks | None = None,
    ) -> Experiment:
        """Build and check all that is needed; raises ConfigError or DataError, nothing being spent.

        `played` are the games of the training; None: nobody knows how the model was trained. `asked` are the
        keys that whoever started the run gave: what cannot be done of the rest is left out, with its reason.
        Chances of the assignment are computed for so many training `units`; None: as many as are declared.
        `accept` may refuse the records, before a model is made for them.
        """
        streams = make_streams(config)
        splits = load_splits(parts.source, streams)
        if played is not None:
            splits = declare_public(splits, parts.mechanism, streams)
        measured = criteria.measured_by(task_of(splits)) if config.fail_if else ()
        conditions = criteria.parse(config.fail_if, parts.attacks, measured=measured)
        preconditions.check_output(config.release, splits)
        asked = {*asked, *(f"attack.{name}.fail_if" for name in criteria.compared(conditions, parts.attacks))}
        unfit = preconditions.check_records(parts, splits, asked)
        parts, played = preconditions.without(unfit, parts, played)
        copies = count_copies(splits)
        if played is None:
            splits, assignments = split_known(splits, config.evidence, streams)
        else:
            units = units or declared_units(config.training)
            splits, assignments = prepare(splits, played, config.evidence, streams, units)
        accept(assignments, splits)
        mechanism, plan = (None if played is None else parts.mechanism), None
        model = make_model(config, mechanism, splits, streams, parts.network)
        budget = make_budget(config, splits)
        if played is not None:
            plan = parts.mechanism.plan(splits, budget)
            assignments = assignments.with_model(played, model, plan, streams)
        left_out = unfit | preconditions.check(
            parts, splits, assignments, budget, evidence=config.evidence, asked=asked
        )
        kept = {name: attack for name, attack in parts.attacks.items() if name not in left_out}
        parts = replace(parts, attacks=kept)
        return cls(
            config=config,
            parts=parts,
            conditions=conditions,
            left_out=tuple(NotRun(attack=name, reason=why) for name, why in left_out.items()),
            splits=splits,
            copies=copies,
            assignments=assignments,
            model=model,
            budget=budget,
            plan=plan,
            console=console,
            ranks=ranks,
        )

    @property
    def draws(self) -> int:
        """How many numbers of noise the private training adds, at most."""
        return draws_of(self.parts.mechanism, self.model, self.splits, self.plan)

    @cached_property
    def context(self) -> Context:
        """What surrounds every training but the one that is released: without a folder, tracked nowhere."""
        context = make_context(self.config)
        store = feature_store(self.config, self.splits, context, self.model, self.cache)
        shared = self.parts.control is not None or any(map(wants_shadows, self.parts.attacks.values()))
        kept = FeatureStore() if store is None and shared else store
        return replace(context, features=kept, ranks=self.ranks)

    @cached_property
    def cache(self) -> Cache:
        """Where control models, shadow models and evaluators are kept, beside the runs."""
        return Cache(Path(self.config.output) / CACHE)

    @property
    def records(self) -> str:
        """A hash of the records that are trained on."""
        return self.assignments.fingerprint(self.splits)

    @cached_property
    def stage(self) -> Stage:
        """The attacks on the release, and what they aim at."""
        return Stage(
            attacks=self.parts.attacks,
            games=self.parts.games,
            splits=self.splits,
            assignments=self.assignments,
            shadows=self.shadows,
        )

    @cached_property
    def control_stage(self) -> Stage:
        """The attacks on the control model, whose canaries are short and whose shadows are never private."""
        shadows = replace(self.shadows, mechanism=self.shadows.plain)
        return replace(self.stage, assignments=self.assignments.for_control(), shadows=shadows)

    def train(self, tracker: Tracker, folder: Path) -> tuple[Subject, Guarantee]:
        """Train what is to be released while attacks look on; its checkpoints go into the folder."""
        context = replace(self.context, tracker=tracker, folder=folder)
        return self._fit("train", self.parts.mechanism, self.stage, context)

    def control_model(self) -> Subject | None:
        """The non-private control model and what attacks saw of it, from the cache if it is there."""
        mechanism = self.parts.control
        if mechanism is None:
            return None

        def fit() -> Subject:
            subject, _ = self._fit("train the control model", mechanism, self.control_stage, self.context)
            return subject

        if Access.WEIGHTS not in mechanism.offers:  # what cannot be kept is made anew
            return fit()
        return kept_or_trained(
            fit,
            model=self.model,
            stage=self.control_stage,
            cache=self.cache,
            key=self._control_key,
            device=self.context.device,
            task=self.splits.task,
        )

    @property
    def needs_control(self) -> bool:
        """Whether the control model is not kept from an earlier run."""
        return self._control_key not in self.cache

    def control(self) -> tuple[Subject | None, tuple[NotRun, ...]]:
        """The model that every attack is controlled by, or None and why there is none.

        The budget is spent by now: a control that cannot be trained must not keep the run from its end.
        """
        try:
            return self.control_model(), ()
        except Unwritable:  # the run goes on once there is space
            raise
        except Exception as error:
            return None, (NotRun(attack="control", reason=f"the control model: {reason(error)}"),)

    def attack(self, subject: Subject, control: Subject | None, guarantee: Guarantee) -> Measured:
        """Every attack on the subject, beside the control, through each interface; scored."""
        scorer = Scorer(
            stage=self.stage,
            nodes=self.config.game,
            guarantee=guarantee,
            streams=self.context.streams,
            device=self.context.device,
            cache=self.cache,
        )
        outputs, seed = make_outputs(self.config.release), self.config.release.seed
        drawn = None if seed is None else replace(self.context.streams, seed=seed)
        show = self.console.stage
        return measure(scorer, subject, control, outputs, show=show, ranks=self.ranks, drawn=drawn)

    def utility(self, subject: Subject) -> Utility:
        """How well a subject does on the test records."""
        gib = self.config.performance.feature_cache_gib
        release, splits = on_features(subject.release, self.splits, self.context, gib=gib)
        return measure_utility(
            release,
            splits,
            confidence=self.config.evidence.confidence,
            as_they_are=given_output(self.config.release) is None,
            ranks=self.ranks,
        )

    def _fit(
        self, title: str, mechanism: Mechanism, stage: Stage, context: Context
    ) -> tuple[Subject, Guarantee]:
        """Train a copy of the model while the attacks that ask for it look on."""
        started = time.perf_counter()
        observers = stage.observers()
        with self.console.training(title) as progress:
            watched = replace(stage.watched(context, observers), progress=progress)
            release, guarantee = mechanism.fit(copy.deepcopy(self.model), self.splits, self.budget, watched)
        if missing := (mechanism.offers & OF_A_MODEL) - release.offers:
            named = ", ".join(sorted(each.value for each in missing))
            raise DptrainError(
                f"mechanism: `{type(mechanism).__name__}` offers {named}, which its "
                "release does not hold; correct its `offers`, or what its `fit` returns"
            )
        seconds = time.perf_counter() - started
        plan, published = mechanism.plan(self.splits, self.budget), release.published
        subject = Subject(
            release=release,
            targets=stage.targets,
            seen=observers,
            steps=plan.steps if plan is not None else published[-1][0] if published else None,
            fit_seconds=seconds,
        )
        return subject, guarantee

    @cached_property
    def shadows(self) -> ShadowTrainer:
        """The adversary who trains models of their own, should an attack ask for them."""
        assigned, streams = self.assignments.probes, self.context.streams
        own = streams.seeded("shadows")  # nothing that an attack is handed may lead to the assignment
        return ShadowTrainer(
            mechanism=self.parts.mechanism,
            plain=self.parts.plain,
            model=self.model,
            known=self.assignments.known(self.splits),
            probes=self.splits.holdout.take(torch.arange(0)) if assigned is None else assigned.probes,
            budget=self.budget,
            context=replace(self.context, streams=replace(streams, seed=own.initial_seed()), ranks=None),
            recipe=cache_keys.recipe(self.config),
            cache=self.cache,
            show=self.console.training,
            ranks=self.ranks,
        )

    @cached_property
    def _control_key(self) -> str:
        return cache_keys.of_control(
            self.config,
            self.splits,
            self.context,
            self.control_stage,
            self.assignments,
            self.model,
            own=not isinstance(self.parts.plain, NonPrivate),
        )
