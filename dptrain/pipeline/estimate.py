"""How long a run will take in all, and how much memory, before it starts."""

from __future__ import annotations

import copy
import logging
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from dptrain.contracts import Estimate, Mechanism, Progress, Records, Release, devices, wants_shadows
from dptrain.contracts.trees import by_name
from dptrain.evaluation.estimate import observers, seconds_of_attacks
from dptrain.evaluation.observing import Timed
from dptrain.evaluation.stage import Stage
from dptrain.models.frozen import split
from dptrain.pipeline.experiment import Experiment
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.runs.features import FeatureStore
from dptrain.training.estimate import MOST, blank, seconds_per_step
from dptrain.training.features import Features
from dptrain.training.fit import units_of
from dptrain.training.sensitivity_audit import looks

log = logging.getLogger(__name__)

REPORT = 4.0  # seconds that numbers, figures and pages take, whatever the run; measured on one core
FEW = 2000  # units that batches are drawn from where features of each are made first
AT_ONCE = 256  # records that a model is asked about, to be timed
GIB = 2**30


def estimate(experiment: Experiment, *, remade: bool, made_up: bool = False) -> Estimate | None:
    """What the run will take, from a few steps and a part of each attack; None: unknown.

    Features of a frozen part are made once, or are `remade` at each step. No training record is touched.
    For records that are `made_up` nothing is kept from earlier runs.
    """
    if not hasattr(experiment.parts.mechanism, "trial"):
        return None
    try:
        with torch.random.fork_rng():  # what is tried is none of the run's randomness
            return _Trials(experiment, remade, made_up).estimate()
    except Exception as error:  # whatever it is, the run itself will meet it, and say what to do
        log.info("how long the run takes cannot be told: %s: %s", type(error).__name__, error)
        return None


class _Trials:
    """What is tried of a run: steps of each kind of training, queries, parts of attacks."""

    def __init__(self, experiment: Experiment, remade: bool, made_up: bool) -> None:
        self.experiment, self.model, self.made_up = experiment, experiment.model, made_up
        self.parts, self.config, self.plan = experiment.parts, experiment.config, experiment.plan
        units = len(units_of(experiment.splits, experiment.budget))
        settings = self.parts.plain.settings  # type: ignore[attr-defined]
        if isinstance(self.plan, DPSGDPlan):
            self.steps, self.batch = self.plan.steps, self.plan.expected_batch_size
        else:
            _, self.steps, self.batch = settings.rates.resolve(units)
        self.physical = max(1, settings.physical_batch_size // settings.copies)
        frozen = None if remade else split(self.model)
        self.frozen = None if frozen is None else frozen[0]
        self.head = None if frozen is None else frozen[1]
        self.gib = float("inf") if self.frozen is not None else 0.0
        most = MOST if self.frozen is None else FEW
        self.blank = blank(experiment.splits, units, max(self.batch, most))
        self.release = Release(
            architecture=partial(copy.deepcopy, self.model),
            weights=self.model.state_dict(),
            device=experiment.context.device,
            task=experiment.splits.task,
        )

    def estimate(self) -> Estimate:
        experiment, parts = self.experiment, self.parts
        watching = observers(experiment.stage)
        step = self._step(parts.mechanism, experiment.stage, watching)
        once = self._features(experiment.splits.train, experiment.splits.holdout)
        evaluations = self._evaluations()
        audits = self._audits(step)
        control = 0.0
        if parts.control is not None and (self.made_up or experiment.needs_control):
            stage = experiment.control_stage
            control = self.steps * self._step(parts.plain, stage, observers(stage)) + evaluations
        attacks = seconds_of_attacks(
            experiment.stage,
            self.release,
            watching,
            interfaces=1 + len({self.config.release.output, *self.config.release.compare} - OPEN),
            controlled=parts.control is not None,
        )
        return Estimate(
            training=once + self.steps * step + audits + evaluations,
            control=control,
            shadows=self._shadows(evaluations),
            attacks=attacks,
            report=REPORT + self._predictions(experiment.splits.test),
            memory_gib=_memory(experiment.context.device),
        )

    def _shadows(self, evaluations: float) -> float:
        """Seconds of the trainings of shadow models that are not kept from earlier runs."""
        asked: dict[bool, int] = {}
        for attack in filter(wants_shadows, self.parts.attacks.values()):
            private = bool(getattr(attack, "private_shadows", False))
            asked[private] = max(asked.get(private, 0), attack.shadows)  # type: ignore[attr-defined]
        seconds = 0.0
        for private, count in asked.items():
            missing = count if self.made_up else len(self.experiment.shadows.missing(count, private=private))
            if missing:
                mechanism = self.parts.mechanism if private else self.parts.plain
                step = self._step(mechanism, None, {})
                seconds += missing * (self.steps * step + evaluations)
        return seconds

    def _step(self, mechanism: Mechanism, stage: Stage | None, watching: Mapping[str, Timed]) -> float:
        """Seconds of one step of a training, with whoever looks on."""
        trial = partial(self._trial, mechanism, stage, watching, audit=False)
        return seconds_per_step(trial, self.batch, physical=self.physical)

    def _audits(self, step: float) -> float:
        """Seconds of the audits of sensitivity, beside those of the steps that they look at."""
        if not getattr(self.parts.mechanism, "audit_sensitivity", False):
            return 0.0
        started = time.perf_counter()
        self._trial(self.parts.mechanism, None, {}, self.batch, None, audit=True)
        return looks(self.steps) * max(0.0, time.perf_counter() - started - step)

    def _trial(
        self,
        mechanism: Any,
        stage: Stage | None,
        watching: Mapping[str, Timed],
        batch: int,
        progress: Progress | None,
        *,
        audit: bool,
    ) -> None:
        context = replace(self.experiment.context, features=FeatureStore(), progress=progress)
        if stage is not None:
            context = stage.watched(context, watching)
        mechanism = replace(mechanism, settings=replace(mechanism.settings, feature_cache_gib=self.gib))
        model = copy.deepcopy(self.model)
        mechanism.trial(
            model, self.blank, self.experiment.budget, context, plan=self.plan, batch=batch, audit=audit
        )

    def _evaluations(self) -> float:
        """Seconds of all looks of one training at the held-out records."""
        looks = self.config.training.evaluations * len(self.experiment.splits.holdout)
        if self.frozen is None or self.head is None:
            return looks * self._of_each
        return looks * self._of(self.head, self.frozen)

    def _features(self, *parts: Records) -> float:
        """Seconds of making the features of these records once; 0 where none are, or at each step."""
        if self.frozen is None:
            return 0.0
        make, kept = Features(self.frozen, self.experiment.context), self.experiment.context.features
        new = sum(len(part) if kept is None else kept.missing(make.names(part)) for part in parts)
        return new * self._of_each

    def _predictions(self, test: Records) -> float:
        """Seconds of predicting the test records."""
        return len(test) * self._of_each if self.frozen is None else self._features(test)

    @cached_property
    def _of_each(self) -> float:
        """Seconds that the model, nearly all in its frozen part where it has one, takes of each record."""
        return self._of(self.model)

    def _of(self, model: nn.Module, before: nn.Module | None = None) -> float:
        """Seconds that a model takes of each record; of a head, what comes `before` it not counted."""
        context = self.experiment.context
        module = copy.deepcopy(model).to(context.device, context.dtype).eval()
        rows = by_name(
            lambda one: one.to(context.device, context.dtype if one.is_floating_point() else None),
            self.experiment.splits.train.blank(AT_ONCE),
        )
        if before is not None:
            one = Features(before, context)(self.experiment.splits.train.blank(1))
            rows = one.expand(AT_ONCE, *one.shape[1:]).to(context.device)
        seconds = 0.0
        for _ in range(2):  # the first time loads what the second finds at hand
            started = time.perf_counter()
            with torch.no_grad():
                module(rows)
            seconds = time.perf_counter() - started
        return seconds / AT_ONCE


OPEN = {"weights", "confidences"}  # what `release.output` calls the interface that hides nothing


def _memory(device: torch.device) -> float:
    """The most memory that trials have taken, in GiB: of the accelerator, or else of this process."""
    if (most := devices.most_allocated(device)) is not None:
        return most / GIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / GIB
