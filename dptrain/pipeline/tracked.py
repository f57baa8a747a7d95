"""What the tracker is told of a run: parameters, numbers and tags."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from dptrain.config import Config
from dptrain.contracts import Interval, Report
from dptrain.pipeline import counts as records
from dptrain.pipeline.experiment import Experiment
from dptrain.report import costs, sentences
from dptrain.tracking import NOTE

PLACES = (
    "name",
    "serve",
    "serving",
    "output",
    "report",
    "resume",
    "sweep",
    "tracking",
    "serve",
    "serving",
)  # keys of what a run is called and where it is put


def params(config: Config, recipe: str) -> dict[str, Any]:
    """What a run was asked for, as the tracker takes it: without where it runs and is put."""
    return {"recipe": recipe} | {key: value for key, value in asdict(config).items() if key not in PLACES}


def counts(experiment: Experiment) -> dict[str, int]:
    """How many records each part of the data holds, and units; what is not public is left out."""
    budget = experiment.budget
    found = records.counts(experiment.splits, experiment.assignments, budget)
    public = found.published(units_public=budget.units_public, set_aside={})
    named = {"train": public.trained_on, "holdout": public.holdout, "test": public.test}
    named |= {} if budget.unit == "record" else {"units": public.units}
    return {name: count for name, count in named.items() if count is not None}


def metrics(report: Report) -> Iterator[tuple[str, float, int]]:
    """Every number of a report that runs are compared by: name, value, step.

    What stands before the slash makes a section of MLflow's charts: what attacks achieved first, then
    bounds, controls and floors, each under the same name.
    """
    metric = report.utility.metric
    yield from _with_ends(metric, report.utility.accuracy)
    if metric == "accuracy":
        yield from _with_ends("auroc", report.utility.auroc)
    yield "loss", report.utility.loss, 0
    if report.control is not None:
        yield f"control/{metric}", report.control.accuracy.value, 0
        if metric == "accuracy":
            yield "control/auroc", report.control.auroc.value, 0
    yield f"floor/{metric}", report.floor_accuracy, 0
    for name, found in report.utility.more.items():
        yield name, found.value, 0
    if report.utility.calibration is not None:
        yield "calibration_error", report.utility.calibration.error.value, 0
    yield from _by_part(report)
    stated = report.guarantee
    yield "guarantee/epsilon", stated.epsilon, 0
    yield "guarantee/delta", stated.delta, 0
    if stated.noise_multiplier is not None or not stated.private:
        yield "guarantee/noise_multiplier", stated.noise_multiplier or 0.0, 0
    if stated.selection is not None:
        yield "guarantee/epsilon_if_selected", stated.selection.epsilon, 0
    for step, epsilon in report.epsilon_by_step:
        yield "epsilon", epsilon, step
    for line in report.leakage:
        name = f"{line.attack}.{line.metric}"
        if line.interface not in ("", "confidences"):
            name += f".{line.interface}"
        yield f"attack/{name}", line.value.value, 0
        yield f"low/{name}", line.value.low, 0
        if math.isfinite(line.value.high):
            yield f"high/{name}", line.value.high, 0
        yield f"floor/{name}", line.floor, 0
        if line.control is not None:
            yield f"control/{name}", line.control.value, 0
        if line.bound is not None:
            yield f"bound/{name}", line.bound, 0
    for key, seconds in report.seconds.items():
        yield f"seconds/{key}", seconds, 0


def _with_ends(name: str, found: Interval) -> Iterator[tuple[str, float, int]]:
    """A measure and its interval, as those of attacks are called."""
    yield name, found.value, 0
    for end in ("low", "high"):
        if math.isfinite(getattr(found, end)):
            yield f"{end}/{name}", getattr(found, end), 0


def _by_part(report: Report) -> Iterator[tuple[str, float, int]]:
    """Utility for each class and each subgroup, and what privacy costs it: how much worse the release is."""
    found, paid = costs.parts(report.utility), {(each.by, each.name): each for each in report.costs}
    names: list[str] = []
    for (by, value), measured in found.items():
        name = re.sub(r"[^\w.-]+", "_", f"{by}.{value}")
        while name in names:  # such as those of <5 and >5
            name += "_"
        names.append(name)
        yield f"utility/{name}", measured.value, 0
        if (by, value) in paid:
            yield f"cost/{name}", costs.lost(paid[by, value].difference, report.utility).value, 0


def tags(report: Report) -> Mapping[str, str]:
    """What runs are found by."""
    statement = report.guarantee
    return {
        NOTE: sentences.short(report),
        "recipe": report.recipe,
        "data": report.data["name"],
        "data.source": report.data["source"],
        "mechanism": report.mechanism,
        "metric": report.utility.metric,
        "unit": statement.unit,
        "guarantee": "void" if statement.void else "holds" if statement.private else "none",
        "code_revision": statement.code_revision or "installed package",
        "confidential": sentences.confidential(report) or "nothing",
        **(
            {"not_run": ", ".join(dict.fromkeys(each.attack for each in report.not_run))}
            if report.not_run
            else {}
        ),
    }
