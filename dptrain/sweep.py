"""A sweep as one thing: what is there, what failed, its parent run, what its models spend together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from dptrain import runs
from dptrain.contracts import Plan
from dptrain.privacy import accountant
from dptrain.report.document import read_json

NOTES = "sweep.json"  # the parent run's id, and what failed
NOT_OF_THE_JOB = ("sweep.resume", "output")  # overrides that say where, not what


def find(folder: Path, order: runs.Order) -> Path | None:
    """The folder of the job that was asked for in these words, finished or not; None: never begun."""
    words = _words(order.overrides)
    for path in sorted(folder.glob(f"*/{runs.ORDER}"), reverse=True):
        if _words(runs.read(path.parent).overrides) == words:
            return path.parent
    return None


def family(folder: Path, open_parent: Callable[[], str | None]) -> str | None:
    """The id of the sweep's parent run, which the first job opens and the others find."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{NOTES}.lock"):
        notes = read_notes(folder)
        if "parent" not in notes:
            notes["parent"] = open_parent()
            _write_notes(folder, notes)
        parent: str | None = notes["parent"]
        return parent


def note_failure(folder: Path, order: runs.Order, error: Exception, code: int) -> None:
    """Remember that a job failed, so that the others go on and the sweep says so in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{NOTES}.lock"):
        notes = read_notes(folder)
        job = " ".join(_words(order.overrides))
        failed = {**notes.get("failed", {}), job: {"error": str(error), "code": code}}
        _write_notes(folder, {**notes, "failed": failed})


def forget_failure(folder: Path, order: runs.Order) -> None:
    """A job that failed before is about to be tried again."""
    with FileLock(folder / f".{NOTES}.lock"):
        notes = read_notes(folder)
        if notes.get("failed", {}).pop(" ".join(_words(order.overrides)), None) is not None:
            _write_notes(folder, notes)


def read_notes(folder: Path) -> dict[str, Any]:
    """What is remembered of a sweep: `parent`, and by job what `failed`."""
    path = folder / NOTES
    notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return notes


def _write_notes(folder: Path, notes: dict[str, Any]) -> None:
    draft = folder / f".{NOTES}.{os.getpid()}"
    draft.write_text(json.dumps(notes, indent=1))
    draft.replace(folder / NOTES)


def _words(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(o for o in overrides if o.partition("=")[0] not in NOT_OF_THE_JOB))


def spent_together(folder: Path, plan: Plan, delta: float) -> dict[str, Any]:
    """Epsilon at `delta` of this plan composed with every finished private run in a sweep's folder.

    An upper bound for whoever sees all the models, and for whoever picks one of them by its results.
    """
    plans = [plan, *(_plan(path) for path in sorted(folder.glob("*/report.json")))]
    known = [each for each in plans if each is not None]
    loss = accountant.privacy_loss(known[0])
    for each in known[1:]:
        loss = loss.compose(accountant.privacy_loss(each))
    return {
        "runs": len(plans),
        "epsilon_together": float(loss.get_epsilon_for_delta(delta)),
        "not_private": len(plans) - len(known),
        "sentence": "Whoever sees the models of this sweep so far, or chooses among them by their results, "
        "holds epsilon_together, not this run's epsilon.",
    }


def _plan(report: Path) -> Plan | None:
    """The plan that a report's guarantee describes; None for a run that was not private."""
    statement = read_json(report)["guarantee"]
    if not statement["private"]:
        return None
    return Plan(
        units=statement["units"],
        sample_rate=statement["sample_rate"],
        steps=statement["steps"],
        expected_batch_size=statement["expected_batch_size"],
        max_grad_norm=statement["max_grad_norm"],
        noise_multiplier=statement["noise_multiplier"],
        clipping=statement["clipping"],
        sampling=statement["sampling_run"],
        adjacency=statement["adjacency"],
    )
