"""`task=plan`: what a training would promise, cost and be able to show, without it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dptrain.assembly.components import Parts, assemble
from dptrain.assembly.given import Given
from dptrain.assembly.values import make_budget
from dptrain.config import Config
from dptrain.contracts import PROBES, Detectable, Forecast, Guarantee, Splits, Variant
from dptrain.evaluation.assignment import declared_units
from dptrain.pipeline import summary
from dptrain.pipeline.experiment import CACHE, Experiment
from dptrain.privacy import signal
from dptrain.privacy.accountant import Curve, DPSGDPlan
from dptrain.privacy.guarantee import BY_PUBLIC_SEED, DPGuarantee, NoGuarantee, delta_meaning
from dptrain.privacy.noise.source import on_cpu, randomness
from dptrain.privacy.plan import default_delta
from dptrain.report.console import Console

ANCHORS = 5  # steps at which epsilon is told
MOST_MADE_UP = 20_000  # records that are looked through for probes and the like, where all are made up
BATCHES, EPOCHS = (0.25, 0.5, 1.0, 2.0, 4.0), (0.5, 1.0, 2.0)  # of the plan's own
AT = 0.01  # false positives at which a membership test is told
COUNTED = "the records were loaded to count them"
DECLARED = "no record was read: the number is declared (expected_batch_size / sample_rate)"
UNDECLARED = f"{COUNTED}: the data's class does not declare what its records are like"


@dataclass(frozen=True)
class _Declared:
    """A source that gives what another declares."""

    source: Any
    train: int

    def load(self, rng: torch.Generator) -> Splits:  # noqa: ARG002
        splits: Splits = self.source.declare(self.train)
        return splits


def plan(
    config: Config, recipe: str, console: Console, *, asked: Collection[str] = (), given: Given | None = None
) -> Forecast:
    """What this training would come to; raises ConfigError or DataError where the training would."""
    parts = assemble(config, given)
    units = declared_units(config.training)
    counted = COUNTED if units is None else DECLARED
    if units is not None and not hasattr(parts.source, "declare"):
        units, counted = None, UNDECLARED
    experiment = _experiment(config, parts, console, units, asked)
    briefing = summary.brief(experiment, recipe=recipe, folder=Path(), made_up=units is not None)
    guarantee = _guarantee(experiment, briefing.parameters)
    planned = experiment.plan
    return Forecast(
        briefing=briefing,
        counted=counted,
        void_reason=BY_PUBLIC_SEED if planned is not None and config.deterministic else None,
        epsilon_by_step=()
        if planned is None
        else Curve(planned, guarantee.delta, ANCHORS, briefing.parameters).points,
        delta_meaning=""
        if planned is None
        else delta_meaning(
            guarantee.delta, briefing.unit, planned.units if experiment.budget.units_public else None
        ),
        membership_tpr=guarantee.membership_tpr(AT),
        detectable=tuple(_detectable(experiment, guarantee)),
        variants=tuple(_variants(experiment, briefing.parameters, briefing.estimate)),
    )


def _experiment(
    config: Config, parts: Parts, console: Console, units: int | None, asked: Collection[str]
) -> Experiment:
    """All that is settled before a training begins; with a declared number of units, of made-up records."""
    if units is not None or not (Path(config.output) / CACHE).exists():  # nothing is kept, nor to be written
        config = replace(config, performance=replace(config.performance, feature_files_gib=0.0))
    if units is None:
        return Experiment.assemble(config, parts, console, played=parts.played, asked=asked)
    made_up = min(units, MOST_MADE_UP)
    few = replace(parts, source=_Declared(parts.source, made_up))
    delta = config.privacy.delta or default_delta(units)
    declared = replace(config, privacy=replace(config.privacy, delta=delta))
    experiment = Experiment.assemble(declared, few, console, played=parts.played, asked=asked, units=made_up)
    every = parts.source.declare(units)  # type: ignore[attr-defined]
    aside = sum(n for name, n in experiment.assignments.set_aside.items() if name != PROBES)
    held_out = torch.arange(max(1, len(every.holdout) - aside))
    splits = replace(
        experiment.splits,
        train=every.train,
        holdout=every.holdout.take(held_out),
        test=every.test,
        group_ids=every.group_ids,
        holdout_group_ids=None if every.holdout_group_ids is None else every.holdout_group_ids[held_out],
    )
    budget = make_budget(config, splits)
    if isinstance(plan := experiment.plan, DPSGDPlan):  # calibrated to the same rate, steps and delta
        plan = replace(plan, units=units)
    elif plan is not None:
        plan = parts.mechanism.plan(splits, budget)
    return replace(experiment, config=config, splits=splits, budget=budget, plan=plan)


def _guarantee(experiment: Experiment, parameters: int) -> Guarantee:
    """What would be proved."""
    plan, budget, context = experiment.plan, experiment.budget, experiment.context
    if plan is None or context.streams.deterministic:  # then the guarantee is void
        return NoGuarantee(budget=budget)
    if not isinstance(plan, DPSGDPlan):
        return DPGuarantee(plan=plan, budget=budget)
    cpu = on_cpu(context.device, context.streams.randomness)
    drawn = randomness(plan, parameters * plan.steps, on_cpu=cpu, secret=True)
    return DPGuarantee(plan=plan, budget=budget, randomness=drawn)


def _detectable(experiment: Experiment, guarantee: Guarantee) -> Iterator[Detectable]:
    """What each attack could certify, with the probes, slots and canaries that there would be."""
    stage = experiment.stage
    for name in stage.attacks:
        game = stage.game(name)
        for found in game.detectable(stage.splits, stage.assignments.of(game), guarantee):
            yield replace(found, attack=name)


def _variants(experiment: Experiment, parameters: int, estimate: Any) -> Iterator[Variant]:
    """Other batches and numbers of passes; their time in proportion to the records that are seen."""
    plan = experiment.plan
    if not isinstance(plan, DPSGDPlan):
        return
    epochs = plan.steps * plan.sample_rate
    for batch in dict.fromkeys(max(1, round(share * plan.expected_batch_size)) for share in BATCHES):
        for times in EPOCHS:
            own = batch == plan.expected_batch_size and times == 1.0
            other = plan if own else signal.near(plan, batch=batch, epochs=times * epochs)
            if other is None:
                continue
            seen = other.steps * other.expected_batch_size / (plan.steps * plan.expected_batch_size)
            yield Variant(
                batch=other.expected_batch_size,
                epochs=other.steps * other.sample_rate,
                steps=other.steps,
                noise_multiplier=other.noise_multiplier,
                signal=signal.signal_to_noise(other, parameters),
                seconds=None if estimate is None else seen * estimate.training,
            )
