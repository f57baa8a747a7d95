"""A sweep as one thing: what is there, what failed, its parent run, what its models spend together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, Field

from dptrain.contracts import DoesNotApply, DptrainError, Plan
from dptrain.privacy.noise.cost import MOST_DRAWS
from dptrain.privacy.plan import default_delta
from dptrain.privacy.written import from_json, plan_from_json, plan_of, plan_to_json
from dptrain.redaction import redact
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.runs.state import State
from dptrain.sweep.cost import composed, drawn

STATE = "sweep.json"
NOT_OF_THE_JOB = ("sweep.resume", "sweep.max_epsilon", "output", "name")  # overrides that say where, not what


class Failure(BaseModel):
    """Why a job failed, with its exit code and the overrides that it was asked for by."""

    error: str
    code: int
    asked: list[str]
    applies: bool = True  # False: data or model do not go with the job's mechanism


class Search(BaseModel):
    """What a search by results may spend, and the Rényi order by which that is counted."""

    max_epsilon: float
    order: float | None = None


class Spent(BaseModel):
    """A training that is counted as spent."""

    delta: float
    plan: dict[str, Any]
    draws: int = Field(default=MOST_DRAWS, ge=0)  # numbers of noise, at most


class Selection(BaseModel):
    """What a private selection fixed before it drew anything, and how many trials it drew."""

    trials: int = 0
    asked: dict[str, Any] = Field(default_factory=dict)  # the configuration
    records: str = ""  # a keyed hash
    plans: list[dict[str, Any]] = Field(default_factory=list)  # of all candidates
    single_epsilon: float | None = None
    terms: dict[str, Any] = Field(default_factory=dict)  # as the statement says them


class SweepState(State):
    """What a sweep remembers: the file sweep.json of its folder."""

    parent: str | None = None  # the id of its parent run in MLflow; set, once it was opened
    asked: list[str] = Field(default_factory=list)  # jobs
    failed: dict[str, Failure] = Field(default_factory=dict)  # by job
    search: Search | None = None
    spent: dict[str, Spent] = Field(default_factory=dict)  # by job
    limit: float | None = None  # of what may be spent
    id: str | None = None  # tells one sweep from another, and nothing else
    selection: Selection | None = None
    # Ids in MLflow of jobs that failed before they had one, by job.
    children: dict[str, str | None] = Field(default_factory=dict)

    @property
    def inapplicable(self) -> dict[str, Failure]:
        """By job: those whose mechanism data or model do not allow, in a sweep that asks which do."""
        words = {word for job in self.asked for word in job.split() if word.startswith("mechanism=")}
        return {job: why for job, why in self.failed.items() if not why.applies and len(words) > 1}

    @property
    def broken_off(self) -> dict[str, Failure]:
        """By job: those that failed, and ought not to have."""
        inapplicable = self.inapplicable
        return {job: why for job, why in self.failed.items() if job not in inapplicable}

    @property
    def agreed(self) -> Selection:
        """The private selection; raises DptrainError where this sweep is none."""
        if self.selection is None:
            raise DptrainError(f"{STATE} holds no private selection; start one with +sweep=private_selection")
        return self.selection


def find(folder: Path, order: runs.Order) -> Path | None:
    """The folder of the job that was asked for in these words, finished or not; None: never begun."""
    same = [path for path, begun in jobs(folder) if _words(begun.overrides) == _words(order.overrides)]
    return same[-1] if same else None


def jobs(folder: Path) -> list[tuple[Path, runs.Order]]:
    """The jobs that have begun, finished or not: their folders, by name, and what was asked for there."""
    return [(path.parent, runs.read(path.parent)) for path in sorted(folder.glob(f"*/{runs.ORDER}"))]


def parent_run(folder: Path, open_parent: Callable[[], str | None]) -> str | None:
    """The id of the sweep's parent run, which the first job opens and the others find."""
    with changing(folder) as state:
        if "parent" not in state.model_fields_set:
            state.parent = open_parent()
        return state.parent


def expect(folder: Path, asked: Iterable[Sequence[str]]) -> None:
    """Remember which jobs are asked for, by their overrides, besides those that were asked for before."""
    with changing(folder) as state:
        state.asked = list(dict.fromkeys([*state.asked, *map(job_key, asked)]))


def never_begun(folder: Path) -> dict[str, str]:
    """The jobs that were asked for and have no folder, and why not as far as that is known."""
    state = read_state(folder)
    there = {job_key(order.overrides) for _, order in jobs(folder)}
    why = {job: failure.error for job, failure in state.failed.items()}
    return {job: why.get(job, "it never began") for job in state.asked if job not in there}


def note_failure(folder: Path, order: runs.Order, error: Exception, code: int) -> None:
    """Remember that a job failed, so that the others go on and the sweep says so in the end."""
    failure = Failure(
        error=redact(str(error)),
        code=code,
        asked=list(_words(order.overrides)),
        applies=not isinstance(error, DoesNotApply),
    )
    with changing(folder) as state:
        state.failed = {**state.failed, job_key(order.overrides): failure}


def forget_failure(folder: Path, order: runs.Order) -> None:
    """A job that failed before is about to be tried again."""
    with changing(folder) as state:
        again = job_key(order.overrides)
        state.failed = {job: failure for job, failure in state.failed.items() if job != again}


@contextmanager
def alone(folder: Path, order: runs.Order) -> Iterator[None]:
    """While a job is being done no other process does the same: a second one waits, and finds it done.

    A trial of a private selection is the same by its number, however it is asked for.
    """
    trial = order.config["sweep"]["trial"]
    job = job_key(order.overrides) if trial is None else f"trial {trial}"
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / sha256(job.encode()).hexdigest()[:16]):
        yield


@contextmanager
def changing(folder: Path) -> Iterator[SweepState]:
    """The state of a sweep, to be changed in place; other processes wait, and then see the change whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{STATE}.lock"):
        state = read_state(folder)
        yield state
        state.write(folder / STATE)


def read_state(folder: Path) -> SweepState:
    """What is remembered of a sweep; nothing, where none was begun."""
    path = folder / STATE
    return SweepState.read(path) if path.exists() else SweepState()


def job_key(overrides: Sequence[str]) -> str:
    """The words that the state of a sweep knows a job by."""
    return " ".join(_words(overrides))


def _words(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(redact(o) for o in overrides if o.partition("=")[0] not in NOT_OF_THE_JOB))


def note_begun(folder: Path, plan: Plan | None, draws: int) -> None:
    """Remember with a job, before it trains, what it is about to spend; None: nothing is proved of it."""
    runs.remember(folder, begun={"plan": None if plan is None else plan_to_json(plan), "draws": draws})


def spent_together(job: Path, plan: Plan, delta: float, *, draws: int) -> dict[str, Any]:
    """Epsilon at `delta` of this job's plan composed with those of all others that have begun in its sweep.

    What is still at work counts, and what failed, for its model may be seen yet. An upper bound for
    whoever sees those models, and for whoever picks one of them by its results.
    """
    others = [_spent_by(other) for other in _begun(job.parent) if other != job]
    known = [(plan, draws), *(each for each in others if each is not None)]
    units = max(each.units for each, _ in known)
    delta = delta if delta * units < 1.0 else default_delta(units)  # others may train on more
    sentence = (
        "Whoever sees the models of this sweep so far, or chooses among them by their results, holds "
        "epsilon_together, not this run's epsilon."
    )
    if uncounted := others.count(None):
        sentence += (
            f" Not private, or void, and not counted: {uncounted}. Whoever sees those has no guarantee."
        )
    return {
        "runs": 1 + len(others),
        "epsilon_together": composed([each for each, _ in known], delta, draws=sum(n for _, n in known)),
        "delta": delta,
        "not_private": uncounted,
        "sentence": sentence,
    }


def _begun(folder: Path) -> list[Path]:
    """The jobs whose training has begun, finished or not."""
    begun = (path for path, _ in jobs(folder) if runs.read_state(path).begun is not None)
    return sorted({*begun, *(path.parent for path in folder.glob(f"*/{runs.REPORT}"))})


def _spent_by(job: Path) -> tuple[Plan, int] | None:
    """The plan of a job that has begun, and how many numbers of noise it draws; None: nothing is proved."""
    if (job / runs.REPORT).exists():
        stated = from_json(read_json(job / runs.REPORT).get("guarantee"), f"{job / runs.REPORT}: guarantee")
        if not stated.private or stated.void:
            return None
        if not stated.plan:
            known = plan_of(stated)
            return None if known is None else (known, drawn(stated))
    begun = runs.read_state(job).begun
    plan = None if begun is None or begun["plan"] is None else plan_from_json(begun["plan"])
    if begun is None or plan is None:
        return None
    draws = begun.get("draws")
    return plan, draws if isinstance(draws, int) and draws >= 0 else MOST_DRAWS
