"""`task=audit`: attack a model that exists, of a finished run or of the user's own, without training it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dptrain.assembly.components import assemble
from dptrain.assembly.values import given_away
from dptrain.config import Config
from dptrain.config.rules import key_of
from dptrain.contracts import Guarantee, Leakage, Report
from dptrain.evaluation.stage import Subject
from dptrain.evidence import criteria
from dptrain.evidence.verdict import TOO_WEAK
from dptrain.pipeline import over_http, summary, tracked
from dptrain.pipeline.case import Case, find, of_the_run, possible, refuse_other_records
from dptrain.pipeline.experiment import Experiment
from dptrain.pipeline.over_http import Remote
from dptrain.pipeline.publish import publish, refuse_broken
from dptrain.pipeline.weights import load
from dptrain.privacy.guarantee import NoGuarantee
from dptrain.report.console import Console
from dptrain.runs import folder as runs

SWAPPED = f"{TOO_WEAK}: members look less like members than the others do; the two may be swapped"
UNKNOWN = "Nothing is proved: it is not known how this model was trained."


def run(config: Config, order: runs.Order, folder: Path, console: Console) -> Report:
    """Attack what `release` names, and report; the model is not trained again."""
    started = time.perf_counter()
    asked, here = config, config.release.serve
    case = find(config, of_the_run(order.overrides) if here else order.overrides, answers=here)
    config, parts = case.config, assemble(case.config)
    named = any(key_of(override) == "attack" for override in order.overrides)
    parts = replace(parts, attacks=possible(parts, case, asked=named))
    experiment = Experiment.assemble(
        config,
        parts,
        console,
        played=case.played,
        asked=order.asked,
        accept=partial(refuse_other_records, case),
    )
    guarantee = case.guarantee
    if guarantee is None:
        guarantee = NoGuarantee(budget=experiment.budget, sentence=UNKNOWN, outside=(UNKNOWN,))
    with _service(asked, case, order, folder, experiment) as service:
        report = _attacked(case, experiment, guarantee, service, order, folder, started)
    criteria.check(experiment.conditions, report)
    return report


@contextmanager
def _service(
    config: Config, case: Case, order: runs.Order, folder: Path, experiment: Experiment
) -> Iterator[Remote | None]:
    """Where the case is served: by others, or here for the audit alone; None: it is attacked as it is."""
    if case.url is not None:
        yield over_http.reach_url(case.url, experiment)
    elif config.release.serve:
        with over_http.extra_needed("release.serve=true"):
            from dptrain.pipeline.guarded import served_here
        with served_here(config, order.overrides, folder, experiment) as remote:
            yield remote
    else:
        yield None


def _attacked(
    case: Case,
    experiment: Experiment,
    guarantee: Guarantee,
    service: Remote | None,
    order: runs.Order,
    folder: Path,
    started: float,
) -> Report:
    """The report of every attack on a case, published."""
    config, parts, console = experiment.config, experiment.parts, experiment.console
    if service is not None:
        release, met, read = service.release(), service.met, ""
    else:
        assert case.weights is not None
        met = {}
        release, read = load(
            case.weights, experiment.model, experiment.context.device, experiment.splits.task
        )
    notes = [f"Weights: {read}."] if read else []
    overlap = _overlap(experiment) if case.played is None else ""
    notes += [f"{overlap[:1].upper()}{overlap[1:]}: leave them out of the non-members."] if overlap else []
    console.audit(case.name, case.weights or Path(case.name), tuple(parts.attacks), folder, notes)
    runs.start(folder, order)
    with parts.tracking.open(folder.name, folder, runs.read_state(folder).tracked_as) as tracker:
        runs.remember(folder, tracked_as=tracker.run_id)
        tracker.params(tracked.params(config, order.recipe))
        target = Subject(release=release, targets=experiment.stage.targets, met=met)
        control, lost = experiment.control() if case.played is not None else (None, ())
        # Before an attack has spent the budget of whoever asks.
        known = {} if service is None else {"utility": service.utility()}
        measured = experiment.attack(target, control, guarantee)
        measured.not_run[:0] = (*lost, *experiment.left_out)
        if case.played is None:
            measured.leakage = [_with_caution(line, overlap) for line in measured.leakage]
        statement = replace(guarantee.statement(), interface=given_away(config.release, release.offers))
        others: dict[str, Any] = {"recipe": f"audit of {case.name}", **known}
        others |= {} if case.played is not None else {"mechanism": "unknown"}
        report = summary.compose(experiment, guarantee, statement, target, order, folder, **others)
        notes += [] if service is None else [service.note()]
        data = {**report.data, "notes": notes}
        if overlap:
            data["copies"] = {}  # the note tells of them
        guarding = None if service is None else service.guarding()
        report = replace(report, data=data, guarding=guarding)
        spent = time.perf_counter() - started
        seconds = {"train": 0.0, "attack": spent, "total": spent}
        report = summary.attacked(report, measured, experiment, control, seconds)
        publish(report, None, tracker, config.report)
        console.report(report, parts.tracking.command)
        refuse_broken(report)
    return report


def _overlap(experiment: Experiment) -> str:
    """How many non-members are members as well, in words; empty: none is."""
    both = experiment.copies["holdout"] + experiment.copies["test"]
    splits, aside = experiment.splits, experiment.assignments.set_aside
    others = len(splits.holdout) + len(splits.test) + sum(aside.values())
    return f"{both:,} of the {others:,} non-members have the inputs of a member" if both else ""


def _with_caution(line: Leakage, overlap: str) -> Leakage:
    """The line, and the caution that it takes where no random choice decided who was trained on."""
    caution = "the files tell who was trained on, not chance: whatever else they differ in reads as leakage"
    notes = "; ".join(each for each in (line.notes, overlap, caution) if each)
    if line.metric == "auc" and line.value.high < line.floor:
        return replace(line, notes=notes, verdict=SWAPPED)
    return replace(line, notes=notes)
