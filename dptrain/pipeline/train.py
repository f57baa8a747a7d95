"""The story of a run: train privately, train the twin, attack both, report."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dptrain import report as documents
from dptrain.assembly.budget import make_budget
from dptrain.assembly.components import assemble
from dptrain.assembly.model import choose_device, make_model
from dptrain.assembly.outputs import given_away
from dptrain.assembly.records import load_splits
from dptrain.config import Config, Documents
from dptrain.contracts import (
    BrokenGuarantee,
    Context,
    Inputs,
    Knowledge,
    Leakage,
    Report,
    Splits,
    Streams,
    Tracker,
)
from dptrain.evaluation import preconditions
from dptrain.evaluation.assignment import declared_units, draw, sow_canaries
from dptrain.evaluation.stage import Subject
from dptrain.evidence import criteria
from dptrain.evidence.copies import count_copies
from dptrain.evidence.verdict import BROKEN
from dptrain.pipeline import summary
from dptrain.pipeline.experiment import Scene
from dptrain.privacy.guarantee import now
from dptrain.report.console import Console
from dptrain.runs import binding
from dptrain.runs import folder as runs
from dptrain.runs.cache import Cache
from dptrain.sweep import budget as sweep_budget
from dptrain.sweep import score
from dptrain.sweep import state as sweeps
from dptrain.sweep import tracking as sweep_tracking
from dptrain.tracking import PARENT, NullRun
from dptrain.training import checkpoint


def run(config: Config, order: runs.Order, folder: Path, console: Console) -> Report:
    """Train, account, attack, report; raises BrokenGuarantee if an attack beats its bound."""
    started = time.perf_counter()
    parts = assemble(config)
    conditions = criteria.parse(config.fail_if, parts.attacks)
    streams = Streams(config.seed, config.deterministic, config.privacy.randomness)
    splits = load_splits(parts.source, streams)
    preconditions.check_records(parts, splits)
    copies = count_copies(splits)
    units = declared_units(config.training)
    splits, coins = draw(splits, parts.needs, config.evidence, streams, units)
    model = make_model(config, parts.mechanism, splits, streams)
    budget = make_budget(config, splits)
    plan = parts.mechanism.plan(splits, budget)
    score.refuse_uncovered(config, plan, coins.fingerprint(splits), folder)
    coins = sow_canaries(coins, parts.needs, model, plan, config.evidence, streams)
    preconditions.check(parts, splits, coins, budget)
    begun = begin_with(folder, model, config, splits)
    device = choose_device(config.device)

    console.briefing(
        summary.brief(
            splits,
            model,
            plan,
            budget,
            recipe=order.recipe,
            mechanism=type(parts.mechanism).__name__,
            attacks=tuple(parts.attacks),
            device=device,
            folder=folder,
            config=config,
            copies=copies,
        )
    )
    if order.sweep:
        limit = config.sweep.max_epsilon
        sweep_budget.reserve(folder.parent, folder.name, plan, delta=budget.delta, max_epsilon=limit)
    runs.start(folder, order)
    name = sweep_tracking.job_name(order.overrides, folder.name) if order.sweep else folder.name
    with parts.tracking.open(name, folder, runs.recall(folder, "tracked_as")) as tracker:
        runs.remember(folder, begun_with=begun)
        runs.remember_records(folder, coins.fingerprint(splits))
        runs.remember(folder, tracked_as=tracker.run_id)
        if order.sweep:
            sweeps.note_begun(folder, None if config.deterministic else plan)
            parent = sweeps.family(
                folder.parent, partial(sweep_tracking.begin, parts.tracking, folder.parent)
            )
            if parent is not None:
                tracker.tags({PARENT: parent})
        tracker.params(summary.params(config, order.recipe))
        here = Context(
            streams=streams,
            tracker=tracker,
            device=device,
            dtype=getattr(torch, config.dtype),
            folder=folder,
            features={} if parts.twin is not None or Knowledge.SHADOWS in parts.needs else None,
        )
        scene = Scene(
            config=config,
            parts=parts,
            splits=splits,
            coins=coins,
            model=model,
            budget=budget,
            context=replace(here, tracker=NullRun(), folder=None),
            cache=Cache(Path(config.output) / "cache"),
            console=console,
        )
        subject, guarantee = scene.train(here)
        runs.keep_weights(folder, subject.release.weights)  # whatever becomes of the attacks
        statement = replace(
            guarantee.statement(),
            interface=given_away(config.release),
            assignment=coins.told(),
            date=runs.remember_once(folder, "trained", now()),
            constants=summary.constants(config, splits, units_public=budget.units_public),
            public_data=summary.public_data(config, splits),
            hashes=binding.hashes(
                subject.release.weights, summary.model_name(model), begun["model code"], config
            ),
        )
        report = summary.compose(
            splits,
            copies,
            guarantee,
            score.how_chosen(statement, config, folder),
            recipe=order.recipe,
            mechanism=type(parts.mechanism).__name__,
            utility=scene.utility(subject),
            holdout_by_step=subject.release.published,
            folder=folder,
            reproduce=order.command,
        )
        if config.sweep.trial is not None or (order.sweep and sweep_budget.searching(folder.parent)):
            score.keep_score(report, config)

        trained = time.perf_counter()
        twin, lost = scene.control()
        measured = scene.attack(subject, twin, guarantee)
        measured.not_run[:0] = lost
        if order.sweep and plan is not None and config.sweep.trial is None:
            together = sweep_budget.stated(folder, plan, budget.delta)
            report = replace(report, guarantee=replace(report.guarantee, sweep=together))
        report = summary.attacked(
            report,
            measured,
            control=None if twin is None else scene.utility(twin),
            seconds={
                "train": subject.fit_seconds - subject.watched_seconds,
                "attack": subject.watched_seconds + time.perf_counter() - trained,
                "total": time.perf_counter() - started,
                **scene.cache.seconds,
            },
        )
        publish(report, subject, splits.train.blank(2), tracker, config.report)
        console.report(report, parts.tracking.command)
        refuse_broken(report)
        criteria.check(conditions, report)
    return report


def begin_with(folder: Path, model: nn.Module, config: Config, splits: Splits) -> dict[str, Any]:
    """What the run is begun with, digested; raises ConfigError where it goes on and something is changed."""
    before = runs.recall(folder, "begun_with") if (folder / runs.ORDER).exists() else None
    salt = secrets.token_hex(16) if before is None else before["salt"]
    now = binding.begun_with(model, config, splits.group_ids, salt)
    if before is not None:
        runs.refuse_changed(folder, binding.changed(before, now))
    return {**now, "salt": salt}


def publish(report: Report, subject: Subject, example: Inputs, tracker: Tracker, wanted: Documents) -> None:
    """Write the report into the run folder, and hand it and the model to the tracker.

    `example` shows the tracker what inputs look like and must not be a record.
    """
    record(report, tracker, wanted)
    tracker.model(subject.release.build().cpu(), example)


def record(report: Report, tracker: Tracker, wanted: Documents) -> None:
    """Write the report into the run folder, and hand it to the tracker."""
    written = documents.write(report, pdf=wanted.pdf, card_measured=wanted.card_measured)
    checkpoint.remove(report.folder)  # the run is complete, whatever becomes of its record elsewhere
    for path in written:
        tracker.artifact(path, "report")
    for name, value, step in summary.metrics(report):
        tracker.metric(name, value, step)
    tracker.tags(summary.tags(report))


def refuse_broken(report: Report) -> None:
    """End loudly where an attack has measured more than the guarantee allows."""
    for line in report.leakage:
        if line.verdict.startswith(BROKEN):
            raise BrokenGuarantee(
                f"{line.attack}/{line.metric}={line.value.value:.3f}, {_breach(line)}: the training is not "
                "as private as its guarantee says. Do not release this model; report the run "
                f"({report.folder}) to the maintainers"
            )


def _breach(line: Leakage) -> str:
    """What shows that a guarantee is broken: what the judge saw, or a bound that was passed."""
    seen = [part.removeprefix("broken: ") for part in line.notes.split("; ") if part.startswith("broken: ")]
    return "; ".join(seen) or f"at least {line.value.low:.3f}, is above the proved bound {line.bound:.6g}"
