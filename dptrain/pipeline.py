"""The story of a run: train privately, train the twin, attack both, report."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dptrain import report as documents
from dptrain import runs, summary, sweep
from dptrain.assembly import Parts, assemble, make_model
from dptrain.attack_stage import Stage, Subject, measure
from dptrain.config import Config
from dptrain.contracts import (
    BrokenGuarantee,
    Budget,
    Context,
    Guarantee,
    Knowledge,
    Mechanism,
    Report,
    Splits,
    Streams,
    Tracker,
    Utility,
)
from dptrain.evidence.slots import Planting, plant
from dptrain.evidence.utility import majority_share, measure_utility
from dptrain.evidence.verdict import BROKEN
from dptrain.privacy.plan import default_delta
from dptrain.report.console import Console
from dptrain.tracking import NullRun
from dptrain.training import checkpoint


def run(config: Config, order: runs.Order, folder: Path, console: Console) -> Report:
    """Train, account, attack, report; raises BrokenGuarantee if an attack beats its bound."""
    started = time.perf_counter()
    parts = assemble(config)
    streams = Streams(config.seed, config.deterministic)
    splits, planting = load(config, parts, streams)
    model = make_model(config, parts.mechanism, splits, streams)
    budget = make_budget(config, splits)
    plan = parts.mechanism.plan(splits, budget)
    stage = Stage.prepare(parts.attacks, splits, planting)
    device = choose_device(config.device)
    mechanism = type(parts.mechanism).__name__

    console.briefing(
        summary.brief(
            splits,
            model,
            plan,
            budget,
            recipe=order.recipe,
            mechanism=mechanism,
            attacks=tuple(parts.attacks),
            device=device,
            folder=folder,
        )
    )
    runs.start(folder, order)
    with parts.tracking.open(folder.name, folder, runs.recall(folder, "tracked_as")) as tracker:
        runs.remember(folder, tracked_as=tracker.run_id)
        tracker.params(asdict(config))
        here = Context(
            streams=streams,
            tracker=tracker,
            device=device,
            dtype=getattr(torch, config.dtype),
            folder=folder,
        )
        there = replace(here, tracker=NullRun(), folder=None)  # the twin never leaves the process

        subject, guarantee = fit("train", parts.mechanism, model, splits, budget, here, stage, console)
        trained = time.perf_counter()
        twin = None
        if parts.twin is not None:
            twin, _ = fit("train the twin", parts.twin, model, splits, budget, there, stage, console)
        leakage, gallery = measure(
            stage, subject, twin, splits, guarantee, streams, config.evidence, show=console.stage
        )
        statement = guarantee.statement()
        if order.sweep and plan is not None:
            statement["sweep"] = sweep.spent_together(folder.parent, plan, budget.delta)

        report = Report(
            recipe=order.recipe,
            mechanism=mechanism,
            data=summary.describe(splits),
            utility=utility(subject, splits, config),
            control=None if twin is None else utility(twin, splits, config),
            floor_accuracy=majority_share(splits.test),
            guarantee=statement,
            epsilon_by_step=guarantee.curve,
            holdout_by_step=subject.release.published,
            tradeoff=summary.tradeoff(guarantee),
            leakage=tuple(leakage),
            gallery=gallery,
            seconds={
                "train": subject.fit_seconds - subject.watched_seconds,
                "attack": subject.watched_seconds + time.perf_counter() - trained,
                "total": time.perf_counter() - started,
            },
            folder=folder,
            reproduce=order.command,
        )
        publish(report, subject, torch.zeros(2, *splits.shape), tracker)
        console.report(report, parts.tracking.command)
        refuse_broken(report)
    return report


def load(config: Config, parts: Parts, streams: Streams) -> tuple[Splits, Planting | None]:
    """The records, with some planted among those to train on where an attack needs them."""
    splits = parts.source.load(streams.seeded("data"))
    if Knowledge.SLOTS not in parts.needs:
        return splits, None
    return plant(
        splits,
        slots=config.evidence.slots,
        candidates=config.evidence.candidates,
        rng=streams.seeded("candidates"),
        coins=streams.seeded("coins"),
    )


def make_budget(config: Config, splits: Splits) -> Budget:
    """The budget as configured, its delta filled in."""
    privacy, training = config.privacy, config.training
    units = len(splits.train)
    if privacy.unit == "patient" and splits.group_ids is not None:
        units = len(splits.group_ids.unique())
    declared = None not in (privacy.delta, training.sample_rate, training.expected_batch_size)
    return Budget(
        epsilon=privacy.epsilon,
        noise_multiplier=privacy.noise_multiplier,
        delta=default_delta(units) if privacy.delta is None else privacy.delta,
        unit=privacy.unit,
        adjacency=privacy.adjacency,
        units_public=not declared,
    )


def choose_device(name: str) -> torch.device:
    """The device of this name; with `auto`, the fastest there is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    title: str,
    mechanism: Mechanism,
    model: nn.Module,
    splits: Splits,
    budget: Budget,
    context: Context,
    stage: Stage,
    console: Console,
) -> tuple[Subject, Guarantee]:
    """Train a copy of the model while the attacks that ask for it look on."""
    started = time.perf_counter()
    observers = stage.observers()
    with console.training(title) as progress:
        watched = replace(stage.watched(context, observers), progress=progress)
        release, guarantee = mechanism.fit(copy.deepcopy(model), splits, budget, watched)
    seconds = time.perf_counter() - started
    return Subject(release=release, seen=observers, fit_seconds=seconds), guarantee


def utility(subject: Subject, splits: Splits, config: Config) -> Utility:
    """How well a subject does on the test records."""
    return measure_utility(
        subject.release.predict(splits.test.inputs), splits.test, confidence=config.evidence.confidence
    )


def publish(report: Report, subject: Subject, example: Tensor, tracker: Tracker) -> None:
    """Write the report and the model into the run folder, and hand both to the tracker.

    `example` shows the tracker what inputs look like and must not be a record.
    """
    model = subject.release.build().cpu()
    torch.save(model.state_dict(), report.folder / "weights.pt")
    written = documents.write(report)
    checkpoint.remove(report.folder)  # the run is complete, whatever becomes of its record elsewhere
    for path in written:
        tracker.artifact(path, "report")
    for name, value, step in summary.metrics(report):
        tracker.metric(name, value, step)
    tracker.tags(summary.tags(report))
    tracker.model(model, example)


def refuse_broken(report: Report) -> None:
    """End loudly where an attack has measured more than the guarantee allows."""
    broken = [line for line in report.leakage if line.verdict == BROKEN]
    if broken:
        line = broken[0]
        raise BrokenGuarantee(
            f"{line.attack}/{line.metric}={line.value.value:.3f}, at least {line.value.low:.3f}, is above "
            f"the proved bound {line.bound:.3f}: the training is not as private as its guarantee says. "
            f"Do not release this model; report the run ({report.folder}) to the maintainers"
        )
