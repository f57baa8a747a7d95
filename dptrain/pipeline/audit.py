"""`task=audit`: attack a model that exists, of a finished run or of the user's own, without training it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from dptrain.assembly.budget import make_budget
from dptrain.assembly.components import assemble
from dptrain.assembly.context import make_streams
from dptrain.assembly.model import make_model
from dptrain.assembly.outputs import given_away
from dptrain.assembly.records import load_splits
from dptrain.config import Config
from dptrain.contracts import (
    Guarantee,
    Leakage,
    Report,
)
from dptrain.evaluation import preconditions
from dptrain.evaluation.assignment import declared_units, prepare, split_known
from dptrain.evaluation.stage import Subject
from dptrain.evidence import criteria
from dptrain.evidence.held_out import count_copies
from dptrain.pipeline import summary, tracked
from dptrain.pipeline.case import Case, find, key_of, load, possible, refuse_other_records
from dptrain.pipeline.experiment import Experiment
from dptrain.pipeline.publish import record, refuse_broken
from dptrain.privacy.guarantee import NoGuarantee
from dptrain.report.console import Console
from dptrain.runs import folder as runs

UNKNOWN = "Nothing is proved: it is not known how this model was trained."


def run(config: Config, order: runs.Order, folder: Path, console: Console) -> Report:
    """Attack what `release` names, and report; the model is not trained again."""
    started = time.perf_counter()
    case = find(config, order.overrides)
    experiment, guarantee = _assemble(case, console, asked=_asked_for_attacks(order))
    config, parts = case.config, experiment.parts

    console.audit(case.name, case.weights, tuple(parts.attacks), folder)
    runs.start(folder, order)
    with parts.tracking.open(folder.name, folder, runs.read_state(folder).tracked_as) as tracker:
        runs.remember(folder, tracked_as=tracker.run_id)
        tracker.params(tracked.params(config, order.recipe))
        release = load(case.weights, experiment.model, experiment.context.device)
        target = Subject(release=release, targets=experiment.stage.targets)
        control, lost = experiment.control() if case.played is not None else (None, ())
        measured = experiment.attack(target, control, guarantee)
        measured.not_run[:0] = lost
        if case.played is None:
            measured.leakage = [_with_caution(line) for line in measured.leakage]
        statement = replace(guarantee.statement(), interface=given_away(config.release, release.offers))
        others = {"recipe": f"audit of {case.name}"} | (
            {} if case.played is not None else {"mechanism": "unknown"}
        )
        report = summary.compose(experiment, guarantee, statement, target, order, folder, **others)
        seconds = {
            "train": 0.0,
            "attack": time.perf_counter() - started,
            "total": time.perf_counter() - started,
        }
        report = summary.attacked(report, measured, experiment, control, seconds)
        record(report, tracker, config.report)
        console.report(report, parts.tracking.command)
        refuse_broken(report)
        criteria.check(experiment.conditions, report)
    return report


def _assemble(case: Case, console: Console, *, asked: bool) -> tuple[Experiment, Guarantee]:
    """The experiment that a case was, with the attacks that can be made now; and what is proved of it."""
    config = case.config
    parts = assemble(config)
    parts = replace(parts, attacks=possible(parts, case, asked=asked))
    conditions = criteria.parse(config.fail_if, parts.attacks)
    streams = make_streams(config)
    splits = load_splits(parts.source, streams)
    preconditions.check_records(parts, splits)
    copies = count_copies(splits)
    if case.played is None:
        splits, assignments = split_known(splits, config.evidence, streams)
    else:
        units = declared_units(config.training)
        splits, assignments = prepare(splits, case.played, config.evidence, streams, units)
    refuse_other_records(case, assignments, splits)
    model = make_model(config, parts.mechanism if case.played is not None else None, splits, streams)
    budget = make_budget(config, splits)
    guarantee = case.guarantee or NoGuarantee(budget=budget, sentence=UNKNOWN, outside=(UNKNOWN,))
    if case.played is not None:
        plan = parts.mechanism.plan(splits, budget)
        assignments = assignments.with_model(case.played, model, plan, streams)
    preconditions.check(parts, splits, assignments, budget)
    experiment = Experiment(
        config=config,
        parts=parts,
        conditions=conditions,
        splits=splits,
        copies=copies,
        assignments=assignments,
        model=model,
        budget=budget,
        plan=None,
        console=console,
    )
    return experiment, guarantee


def _asked_for_attacks(order: runs.Order) -> bool:
    return any(key_of(override) == "attack" for override in order.overrides)


def _with_caution(line: Leakage) -> Leakage:
    """The line, and the caution that it takes where no coin decided who was trained on."""
    caution = "files tell who was trained on, no coin decided: whatever else they differ in reads as leakage"
    return replace(line, notes=f"{line.notes}; {caution}" if line.notes else caution)
