"""A sweep as one thing: what is there, what failed, its parent run, what its models spend together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, Field

from dptrain.contracts import DataError, DoesNotApply, DptrainError, Plan, Statement
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
    unit: str | None = None  # of privacy; None: an earlier version did not say
    trial: int | None = None  # of a private selection

    def known(self) -> tuple[Plan, int] | None:
        """The plan, and how many numbers of noise it draws; None: of a mechanism that is not at hand."""
        plan = plan_from_json(self.plan)
        return None if plan is None else (plan, self.draws)


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
    trainings: dict[str, Spent | None] = Field(default_factory=dict)  # that began, by job; None: not private
    spent: dict[str, Spent] = Field(default_factory=dict)  # by job, of what is limited
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DptrainError(
            f"output: {folder} cannot be made ({error.strerror}); set output (or hydra.sweep.dir) to another "
            "folder"
        ) from error
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


def spent_of(plan: Plan, *, delta: float, draws: int, unit: str, trial: int | None = None) -> Spent:
    """What a training by this plan spends, of plain values as they are on disk."""
    values = json.loads(json.dumps(plan_to_json(plan)))
    return Spent(delta=delta, plan=values, draws=draws, unit=unit, trial=trial)


def note_begun(folder: Path, spent: Spent | None) -> None:
    """Remember with a job and its sweep, before it trains, what it is about to spend; None: nothing proved.

    Its sweep remembers it for good: what has become of its folder takes nothing back.
    """
    values = None if spent is None else spent.model_dump()
    runs.remember(folder, begun={"plan": None, "draws": 0} if values is None else values)
    with changing(folder.parent) as state:
        state.trainings = {**state.trainings, folder.name: spent}


def spent_together(job: Path, plan: Plan, delta: float, *, draws: int, unit: str) -> dict[str, Any]:
    """Epsilon at `delta` of this job's plan composed with those of all others that have begun in its sweep.

    What is still at work counts, and what failed or is gone, for its model may be seen yet. An upper bound
    for whoever sees those models, and for whoever picks one of them by its results.
    """
    others = [each for name, each in trainings(job.parent).items() if name != job.name]
    alike = [each for each in others if each is not None and each.unit in (None, unit)]
    found = [each.known() for each in alike]
    known = [(plan, draws), *(each for each in found if each is not None)]
    units = max(each.units for each, _ in known)
    delta = delta if delta * units < 1.0 else default_delta(units)  # others may train on more
    covered = not any(getattr(each, "measured_outside", False) for each, _ in known)
    seen = "Whoever sees the models of this sweep so far"
    seen += ", or chooses among them by their results," if covered else ""
    sentence = f"{seen} holds epsilon_together, not this run's epsilon."
    if not covered:
        sentence += " To choose among them by figures that were measured outside of a guarantee adds to it."
    if uncounted := others.count(None) + found.count(None):
        sentence += (
            f" Not private, or void, and not counted: {uncounted}. Whoever sees those has no guarantee."
        )
    if apart := len(others) - others.count(None) - len(alike):
        sentence += f" Private by another unit than {unit}, of which nothing follows here: {apart}."
    return {
        "runs": 1 + len(others),
        "epsilon_together": composed([each for each, _ in known], delta, draws=sum(n for _, n in known)),
        "delta": delta,
        "not_private": uncounted + apart,
        "sentence": sentence,
        "choice_covered": covered,
    }


def trainings(folder: Path) -> dict[str, Spent | None]:
    """What each training that has begun in a sweep spends, by job: those whose folders are gone, too."""
    begun = (path for path, _ in jobs(folder) if runs.read_state(path).begun is not None)
    there = {*begun, *(path.parent for path in folder.glob(f"*/{runs.REPORT}"))}
    return {**read_state(folder).trainings, **{path.name: spent_by(path) for path in sorted(there)}}


def spent_by(job: Path) -> Spent | None:
    """What the training of a job that has begun spends; None: nothing is proved of it."""
    state = runs.read_state(job) if (job / runs.ORDER).exists() else None
    privacy = {} if state is None else state.config.get("privacy", {})
    if (stated := reported(job)) is not None:
        if not stated.private or stated.void:
            return None
        if not stated.plan:
            told = plan_of(stated)
            if told is None:
                return None
            return spent_of(told, delta=stated.delta, draws=drawn(stated), unit=stated.unit)
        privacy = {"delta": stated.delta, "unit": stated.unit}
    begun = None if state is None else state.begun
    if begun is None or begun["plan"] is None:
        return None
    draws, delta = begun.get("draws"), begun.get("delta", privacy.get("delta"))
    plan = plan_from_json(begun["plan"])
    if plan is None:
        return None
    return spent_of(
        plan,
        delta=delta if isinstance(delta, float) else default_delta(plan.units),
        draws=draws if isinstance(draws, int) and draws >= 0 else MOST_DRAWS,
        unit=begun.get("unit") or privacy.get("unit", "record"),
    )


def reported(job: Path) -> Statement | None:
    """What the report of a job states; None where there is none, or none that can be read."""
    path = job / runs.REPORT
    try:
        return from_json(read_json(path).get("guarantee"), f"{path}: guarantee") if path.exists() else None
    except DataError:
        return None
