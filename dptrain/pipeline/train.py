"""The story of a run: train privately, train the control, attack both, report."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dptrain.assembly.components import assemble
from dptrain.assembly.given import Given
from dptrain.config import Config
from dptrain.contracts import ConfigError, Ranks, Report
from dptrain.evidence import criteria
from dptrain.pipeline import summary, tracked
from dptrain.pipeline.experiment import Experiment
from dptrain.pipeline.publish import publish, refuse_broken
from dptrain.pipeline.served import served
from dptrain.report.console import Console
from dptrain.runs import binding
from dptrain.runs import folder as runs
from dptrain.sweep.study import Study
from dptrain.tasks import task_of


def run(
    config: Config,
    order: runs.Order,
    folder: Path,
    study: Study,
    console: Console,
    *,
    given: Given | None = None,
    ranks: Ranks | None = None,
) -> Report:
    """Train, account, attack, report; raises BrokenGuarantee if an attack beats its bound.

    `ranks` compute its trainings with this process; all that is drawn and written is this one's.
    """
    started = time.perf_counter()
    parts = assemble(config, given)  # all that is wrong is said here, before anything is spent
    experiment = Experiment.assemble(
        config, parts, console, played=parts.played, asked=order.asked, ranks=ranks
    )
    plan, delta, draws = experiment.plan, experiment.budget.delta, experiment.draws
    study.check(plan, experiment.records, task_of(experiment.splits))
    begun = begin_with(folder, experiment)
    console.briefing(summary.brief(experiment, recipe=order.recipe, folder=folder))
    study.reserve(plan, delta=delta, draws=draws)
    runs.start(folder, order)

    with parts.tracking.open(study.name(), folder, runs.read_state(folder).tracked_as) as tracker:
        runs.remember_records(folder, experiment.records)
        runs.remember(folder, begun_with=begun, tracked_as=tracker.run_id)
        study.begin(plan, parts.tracking, tracker, delta=delta, draws=draws)
        tracker.params(tracked.params(config, order.recipe))
        tracker.data(experiment.splits.name, tracked.counts(experiment))

        target, guarantee = experiment.train(tracker, folder)
        if target.release.weights is not None:
            runs.keep_weights(folder, target.release.weights)  # whatever becomes of the attacks
        statement = summary.stated(experiment, guarantee, target, begun["model code"], folder)
        report = summary.compose(experiment, guarantee, study.annotate(statement), target, order, folder)
        study.keep_score(report)  # before any attack: what they come to must choose nothing

        trained = time.perf_counter()
        control, lost = experiment.control()
        measured = experiment.attack(target, control, guarantee)
        measured.not_run[:0] = (*lost, *experiment.left_out)
        seconds = {
            "train": target.fit_seconds - target.watched_seconds,
            "attack": target.watched_seconds + time.perf_counter() - trained,
            "total": time.perf_counter() - started,
        }
        report = summary.attacked(
            study.total(report, plan, delta=delta, draws=draws), measured, experiment, control, seconds
        )
        handed_on = target.release.weights is not None and config.sweep.trial is None  # trials are the team's
        model = served(report, target.release, experiment) if handed_on else None
        publish(report, model, tracker, config.report)
        console.report(report, parts.tracking.command)
        refuse_broken(report)
        criteria.check(experiment.conditions, report)
    return report


def begin_with(folder: Path, experiment: Experiment) -> dict[str, Any]:
    """What the run is begun with, digested; raises ConfigError where it goes on and something is changed."""
    before = runs.read_state(folder).begun_with if (folder / runs.ORDER).exists() else None
    salt = secrets.token_hex(16) if before is None else before["salt"]
    digests = binding.begun_with(experiment.model, experiment.config, experiment.splits, salt)
    if before is not None:
        runs.refuse_changed(folder, binding.changed(before, digests))
        _refuse_untold(folder, before)
    return {**digests, "salt": salt}


def _refuse_untold(folder: Path, before: Mapping[str, Any]) -> None:
    """Raise ConfigError where a run folder does not tell which held-out, test and public records it had."""
    if binding.RECORDS not in before:
        raise ConfigError(
            f"resume={folder}: an earlier version of dptrain began it, and its folder does not tell "
            "whether its held-out, test and public records are what they were; go on with that version, or "
            "start a new run"
        )
