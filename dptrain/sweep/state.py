"""A sweep as one thing: what is there, what failed, its parent run, what its models spend together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from dptrain.contracts import Plan
from dptrain.privacy.plan import default_delta
from dptrain.privacy.stated import plan_of
from dptrain.privacy.written import from_json, plan_from_json, plan_to_json
from dptrain.redaction import redact
from dptrain.report.document import read_json, write_text
from dptrain.runs import folder as runs
from dptrain.sweep.cost import composed

NOTES = "sweep.json"  # the parent run's id, what failed, and what is counted as spent
NOT_OF_THE_JOB = ("sweep.resume", "sweep.max_epsilon", "output")  # overrides that say where, not what


def find(folder: Path, order: runs.Order) -> Path | None:
    """The folder of the job that was asked for in these words, finished or not; None: never begun."""
    same = [path for path, begun in jobs(folder) if _words(begun.overrides) == _words(order.overrides)]
    return same[-1] if same else None


def jobs(folder: Path) -> list[tuple[Path, runs.Order]]:
    """The jobs that have begun, finished or not: their folders, by name, and what was asked for there."""
    return [(path.parent, runs.read(path.parent)) for path in sorted(folder.glob(f"*/{runs.ORDER}"))]


def family(folder: Path, open_parent: Callable[[], str | None]) -> str | None:
    """The id of the sweep's parent run, which the first job opens and the others find."""
    with noting(folder) as notes:
        if "parent" not in notes:
            notes["parent"] = open_parent()
        parent: str | None = notes["parent"]
    return parent


def expect(folder: Path, asked: Iterable[Sequence[str]]) -> None:
    """Remember which jobs are asked for, by their overrides, besides those that were asked for before."""
    with noting(folder) as notes:
        notes["asked"] = list(dict.fromkeys([*notes.get("asked", []), *map(told, asked)]))


def never_begun(folder: Path) -> dict[str, str]:
    """The jobs that were asked for and have no folder, and why not as far as that is known."""
    notes = read_notes(folder)
    there = {told(order.overrides) for _, order in jobs(folder)}
    failed = {job: failure["error"] for job, failure in notes.get("failed", {}).items()}
    return {job: failed.get(job, "it never began") for job in notes.get("asked", []) if job not in there}


def note_failure(folder: Path, order: runs.Order, error: Exception, code: int) -> None:
    """Remember that a job failed, so that the others go on and the sweep says so in the end."""
    with noting(folder) as notes:
        failure = {"error": redact(str(error)), "code": code, "asked": _words(order.overrides)}
        notes["failed"] = {**notes.get("failed", {}), told(order.overrides): failure}


def forget_failure(folder: Path, order: runs.Order) -> None:
    """A job that failed before is about to be tried again."""
    with noting(folder) as notes:
        notes.get("failed", {}).pop(told(order.overrides), None)


@contextmanager
def alone(folder: Path, order: runs.Order) -> Iterator[None]:
    """While a job is being done no other process does the same: a second one waits, and finds it done.

    A trial of a private selection is the same by its number, however it is asked for.
    """
    trial = order.config["sweep"]["trial"]
    job = told(order.overrides) if trial is None else f"trial {trial}"
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / sha256(job.encode()).hexdigest()[:16]):
        yield


@contextmanager
def noting(folder: Path) -> Iterator[dict[str, Any]]:
    """The notes of a sweep, to be changed in place; other processes wait, and then see the change whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{NOTES}.lock"):
        notes = read_notes(folder)
        yield notes
        write_text(json.dumps(notes, indent=1), folder / NOTES)


def read_notes(folder: Path) -> dict[str, Any]:
    """What is remembered of a sweep: `parent`, jobs `asked` for, and by job what `failed` or was `spent`."""
    path = folder / NOTES
    notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return notes


def told(overrides: Sequence[str]) -> str:
    """A job in the words that the notes know it by."""
    return " ".join(_words(overrides))


def _words(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(redact(o) for o in overrides if o.partition("=")[0] not in NOT_OF_THE_JOB))


def note_begun(folder: Path, plan: Plan | None) -> None:
    """Remember with a job, before it trains, what it is about to spend; None: nothing is proved of it."""
    runs.remember(folder, begun={"plan": None if plan is None else plan_to_json(plan)})


def spent_together(job: Path, plan: Plan, delta: float) -> dict[str, Any]:
    """Epsilon at `delta` of this job's plan composed with those of all others that have begun in its sweep.

    What is still at work counts, and what failed, for its model may be seen yet. An upper bound for
    whoever sees those models, and for whoever picks one of them by its results.
    """
    plans = [plan, *(_plan_begun(other) for other in _begun(job.parent) if other != job)]
    known = [each for each in plans if each is not None]
    units = max(each.units for each in known)
    delta = delta if delta * units < 1.0 else default_delta(units)  # others may train on more
    sentence = (
        "Whoever sees the models of this sweep so far, or chooses among them by their results, holds "
        "epsilon_together, not this run's epsilon."
    )
    if uncounted := len(plans) - len(known):
        sentence += (
            f" Not private, or void, and not counted: {uncounted}. Whoever sees those has no guarantee."
        )
    return {
        "runs": len(plans),
        "epsilon_together": composed(known, delta),
        "delta": delta,
        "not_private": uncounted,
        "sentence": sentence,
    }


def _begun(folder: Path) -> list[Path]:
    """The jobs whose training has begun, finished or not."""
    begun = (path for path, _ in jobs(folder) if runs.recall(path, "begun") is not None)
    return sorted({*begun, *(path.parent for path in folder.glob(f"*/{runs.REPORT}"))})


def _plan_begun(job: Path) -> Plan | None:
    """The plan of a job that has begun; None where nothing is proved of it."""
    if (job / runs.REPORT).exists():
        stated = from_json(read_json(job / runs.REPORT).get("guarantee"), f"{job / runs.REPORT}: guarantee")
        if not stated.plan:
            return plan_of(stated) if stated.private and not stated.void else None
        if not stated.private or stated.void:
            return None
    plan = runs.recall(job, "begun")["plan"]
    return None if plan is None else plan_from_json(plan)
