"""The parent run of a sweep: its jobs are shown below it, and itself it shows what they say together."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dptrain.redaction import redact
from dptrain.report.comparison import sentences as said
from dptrain.report.comparison.points import Comparison
from dptrain.report.comparison.tables import utility
from dptrain.runs import folder as runs
from dptrain.sweep import state as sweeps
from dptrain.tracking import NOTE, PARENT, Tracking, failure

# What a job is not called by.
UNNAMED = ("recipe", "name", "output", "report", "performance", "device", "tracking", "sweep", "hydra")
LONGEST = 120  # letters of a job's name
WORDS = ("point", "seeds")  # columns that hold no number


def begin(tracking: Tracking, folder: Path) -> str | None:
    """The id of a new run that the runs of a sweep are shown below; None where nothing is recorded."""
    with tracking.open(folder.name, folder) as parent:
        parent.outcome = "RUNNING"
        return parent.run_id


def shared(folder: Path) -> frozenset[str]:
    """The overrides that all jobs of a sweep have, which tell none of them apart; none of a single job."""
    jobs = [frozenset(job.split(" ")) for job in sweeps.read_state(folder).asked]
    return frozenset.intersection(*jobs) if len(jobs) > 1 else frozenset()


def job_name(overrides: Iterable[str], otherwise: str, shared: Collection[str] = ()) -> str:
    """What a job of a sweep is called in MLflow's tables and charts, where there is little room.

    Without the overrides that it has with all others.

    >>> job_name(["recipe=quickstart", "privacy.epsilon=1", "seed=2", "performance.threads=1"], "unnamed")
    'epsilon=1 seed=2'
    """
    asked = (
        each.lstrip("+~").partition("=") for each in overrides if _names(each) and redact(each) not in shared
    )
    name = " ".join(f"{key.rpartition('.')[2]}{equals}{value}" for key, equals, value in asked) or otherwise
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _names(override: str) -> bool:
    """Whether an override says what a job is, and not where it runs."""
    return re.split("[.=]", override.lstrip("+~"))[0] not in UNNAMED


def conclude(tracking: Tracking, folder: Path, found: Comparison | None, files: Iterable[Path]) -> None:
    """Give the parent what the jobs say together, and its status: FAILED if one of them failed.

    `files` go below `comparison/` of its artifacts, where those of a folder of `folder` stay together.
    """
    state = sweeps.read_state(folder)
    parent, failed = state.parent, state.broken_off
    if parent is None:
        return
    _record_failures(tracking, folder, parent, state.failed)
    with tracking.open(folder.name, folder, parent) as tracker:
        finished = len(list(folder.glob(f"*/{runs.REPORT}")))
        tracker.tags(_tags(found, finished, failed, shared(folder), inapplicable=len(state.inapplicable)))
        tracker.metric("jobs/finished", finished)
        tracker.metric("jobs/failed", len(failed))
        if found is not None:
            from dptrain.report.comparison.files import by_point  # which imports much: when all jobs are done

            columns = by_point(found)
            tracker.table(columns, "comparison/points.json")
            for name, value, step in _metrics(found, columns):
                tracker.metric(name, value, step)
        for path in files:
            inside = path.parent.relative_to(folder)
            tracker.artifact(path, str("comparison" / inside))
        tracker.outcome = "FAILED" if failed else "FINISHED"


def _record_failures(
    tracking: Tracking, folder: Path, parent: str, failed: Mapping[str, sweeps.Failure]
) -> None:
    """A child for each job that failed before it had one of its own, so that none is missing."""
    common = shared(folder)
    there = {
        sweeps.job_key(order.overrides)
        for path, order in sweeps.jobs(folder)
        if runs.read_state(path).tracked_as is not None
    }
    for job, why in failed.items():
        if job in there:
            continue
        before = sweeps.read_state(folder).children.get(job)
        with tracking.open(job_name(why.asked, folder.name, common), folder, before) as child:
            child.tags({PARENT: parent, **failure(why.error)})
            child.params(dict(each.partition("=")[::2] for each in why.asked if _names(each)))
            child.outcome = "FAILED"
            with sweeps.changing(folder) as state:
                state.children = {**state.children, job: child.run_id}


def _tags(
    found: Comparison | None,
    finished: int,
    failed: Mapping[str, sweeps.Failure],
    common: Collection[str],
    *,
    inapplicable: int,
) -> dict[str, str]:
    lines = [f"{finished} jobs finished, {len(failed)} failed."]
    tags = {"jobs.finished": str(finished), "jobs.failed": str(len(failed))}
    if inapplicable:
        lines.append(f"{inapplicable} do not apply: data or model do not go with their mechanism.")
        tags["jobs.left_out"] = str(inapplicable)
    if found is not None:
        tags |= {"recipe": found.title, "data": str(found.data["name"]), "unit": found.unit}
        from dptrain.report.render import markdown_table  # which imports much

        lines += [
            "",
            *(f"{sentence}\n" for sentence in said.overview(found)),
            markdown_table(utility(found)),
            "",
        ]
        lines += ["The whole comparison: `comparison/comparison.html` among the artifacts."]
    for number, (job, why) in enumerate(failed.items(), start=1):
        line = f"{job_name(why.asked, job, common)}: {why.error}"
        tags[f"failed.{number}"] = line
        lines += ["", f"**Failed:** {line}"]
    return {**tags, NOTE: "\n".join(lines)}


def _metrics(found: Comparison, columns: Mapping[str, list[Any]]) -> Iterator[tuple[str, float, int]]:
    """Each number of the points by the point's number as step, the smallest epsilon first."""
    for name, values in columns.items():
        if name in WORDS:
            continue
        for step, value in enumerate(values, start=1):
            if value is not None:
                yield f"points/{name}", float(value), step
    if math.isfinite(found.cost.alone):
        yield "search/epsilon_alone", found.cost.alone, 0
    if found.cost.together is not None:
        yield "search/epsilon_together", found.cost.together, 0
    yield "search/models", float(found.cost.models), 0
