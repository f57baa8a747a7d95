"""The story of a run: train privately, train the twin, attack both, report."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dptrain import binding, chosen, family, limits, preconditions, runs, summary, sweep, tuning
from dptrain import report as documents
from dptrain.assembly import assemble, given_away, load_splits, make_model
from dptrain.attack_stage import Subject
from dptrain.cache import Cache
from dptrain.coins import declared_units, draw, sow_canaries
from dptrain.config import Config, Documents
from dptrain.contracts import (
    BrokenGuarantee,
    Budget,
    Context,
    Knowledge,
    Leakage,
    Report,
    Splits,
    Streams,
    Tracker,
)
from dptrain.evidence.copies import count_copies
from dptrain.evidence.verdict import BROKEN
from dptrain.privacy.guarantee import now
from dptrain.privacy.plan import check_delta, default_delta
from dptrain.report.console import Console
from dptrain.scene import Scene
from dptrain.tracking import PARENT, NullRun
from dptrain.training import checkpoint


def run(config: Config, order: runs.Order, folder: Path, console: Console) -> Report:
    """Train, account, attack, report; raises BrokenGuarantee if an attack beats its bound."""
    started = time.perf_counter()
    parts = assemble(config)
    conditions = limits.parse(config.fail_if, parts.attacks)
    streams = Streams(config.seed, config.deterministic, config.privacy.randomness)
    splits = load_splits(parts.source, streams)
    copies = count_copies(splits)
    units = declared_units(config.training)
    splits, coins = draw(splits, parts.needs, config.evidence, streams, units)
    model = make_model(config, parts.mechanism, splits, streams)
    budget = make_budget(config, splits)
    plan = parts.mechanism.plan(splits, budget)
    chosen.refuse_uncovered(config, plan, coins.fingerprint(splits), folder)
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
        tuning.reserve(folder.parent, folder.name, plan, delta=budget.delta, max_epsilon=limit)
    runs.start(folder, order)
    name = family.job_name(order.overrides, folder.name) if order.sweep else folder.name
    with parts.tracking.open(name, folder, runs.recall(folder, "tracked_as")) as tracker:
        runs.remember(folder, begun_with=begun)
        runs.remember_records(folder, coins.fingerprint(splits))
        runs.remember(folder, tracked_as=tracker.run_id)
        if order.sweep:
            sweep.note_begun(folder, None if config.deterministic else plan)
            parent = sweep.family(folder.parent, partial(family.begin, parts.tracking, folder.parent))
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
            chosen.how_chosen(statement, config, folder),
            recipe=order.recipe,
            mechanism=type(parts.mechanism).__name__,
            utility=scene.utility(subject),
            holdout_by_step=subject.release.published,
            folder=folder,
            reproduce=order.command,
        )
        if config.sweep.trial is not None or (order.sweep and tuning.searching(folder.parent)):
            chosen.keep_score(report, config)

        trained = time.perf_counter()
        twin, lost = scene.control()
        measured = scene.attack(subject, twin, guarantee)
        measured.not_run[:0] = lost
        if order.sweep and plan is not None and config.sweep.trial is None:
            together = tuning.stated(folder, plan, budget.delta)
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
        publish(report, subject, torch.zeros(2, *splits.shape), tracker, config.report)
        console.report(report, parts.tracking.command)
        refuse_broken(report)
        limits.check(conditions, report)
    return report


def begin_with(folder: Path, model: nn.Module, config: Config, splits: Splits) -> dict[str, Any]:
    """What the run is begun with, digested; raises ConfigError where it goes on and something is changed."""
    before = runs.recall(folder, "begun_with") if (folder / runs.ORDER).exists() else None
    salt = secrets.token_hex(16) if before is None else before["salt"]
    now = binding.begun_with(model, config, splits.group_ids, salt)
    if before is not None:
        runs.refuse_changed(folder, binding.changed(before, now))
    return {**now, "salt": salt}


def make_budget(config: Config, splits: Splits) -> Budget:
    """The budget as configured, its delta filled in."""
    privacy, training = config.privacy, config.training
    units = len(splits.train)
    if privacy.unit == "patient" and splits.group_ids is not None:
        units = len(splits.group_ids.unique())
    rate, batch = training.sample_rate, training.expected_batch_size
    public, named = True, float(units)
    if privacy.delta is not None and rate is not None and batch is not None:
        public, named = False, batch / rate  # nothing is computed from their number: it is not told either
    delta = default_delta(units) if privacy.delta is None else privacy.delta
    check_delta(delta, named, privacy.unit)
    return Budget(
        epsilon=privacy.epsilon,
        noise_multiplier=privacy.noise_multiplier,
        advantage=privacy.advantage,
        tpr_at_fpr=privacy.tpr_at_fpr,
        delta=delta,
        unit=privacy.unit,
        adjacency=privacy.adjacency,
        units_public=public,
    )


def choose_device(name: str) -> torch.device:
    """The device of this name; with `auto`, the fastest there is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def publish(report: Report, subject: Subject, example: Tensor, tracker: Tracker, wanted: Documents) -> None:
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
