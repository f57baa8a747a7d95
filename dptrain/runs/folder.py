"""Run folders: where a run keeps what it needs to be told, resumed and reproduced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from dptrain.config import RENAMED, present
from dptrain.config.rules import key_of
from dptrain.contracts import ConfigError, DptrainError
from dptrain.redaction import withheld, withheld_arguments
from dptrain.runs.keyed import SECRET, keyed
from dptrain.runs.saved import saved
from dptrain.runs.state import RunState
from dptrain.storage import unwritable, write_bytes
from dptrain.training import checkpoint

ORDER = "run.json"  # what was asked for
WEIGHTS = "weights.pt"  # written when the training is over
REPORT = "report.json"  # written last: a folder that holds it is complete
RELEASE = "selected"  # the folder of what a private selection released, beside its trials
SELECTED = "selected.json"  # which trial that was: for the team
GIVEN = "handed_over"  # in a node of the configuration: a program handed the object over
LOCK = ".lock"  # held while a process is at work on the run


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was asked for: recipe, overrides, and the whole configuration that came of them."""

    recipe: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    sweep: bool = False
    drawn: tuple[str, ...] = ()  # overrides that nobody asked for: a private selection drew them
    started_by: str | None = None  # a launcher's job, which may start the same command again

    @property
    def asked(self) -> frozenset[str]:
        """The dotted keys that were given a value by whoever asked."""
        return frozenset(map(key_of, self.overrides))

    @property
    def command(self) -> str:
        """The command line that asks for it again; of a trial, for what was drawn, and not for its number."""
        asked = [o for o in self.overrides if not (self.drawn and o.lstrip("+").startswith("sweep"))]
        words = [f"recipe={self.recipe}", *(o for o in asked if not o.startswith("recipe=")), *self.drawn]
        return " ".join(["python -m dptrain", *words])


def without_secrets(order: Order) -> Order:
    """The order as it may be written and shown; its secrets are kept for this process, for its components."""
    return replace(
        order,
        overrides=tuple(withheld_arguments(order.overrides)),
        config=withheld(order.config),
        drawn=tuple(withheld_arguments(order.drawn)),
    )


def start(folder: Path, order: Order) -> None:
    """Make the run folder and write the order into it; a resumed run keeps what its folder remembers."""
    if (folder / ORDER).exists():
        return
    RunState(**vars(without_secrets(order))).write(folder / ORDER)


def _unwritable(folder: Path, error: OSError) -> DptrainError:
    return DptrainError(
        f"output: {folder} cannot be written ({error.strerror}); set output to another folder"
    )


def new_folder(output: Path, name: str) -> Path:
    """A new folder that no other run has, made here: time, name, and a number where they coincide.

    It lies in `output` itself, whatever the name, such as that of a recipe in a folder: there a sweep looks
    for its jobs, and a job for its sweep.
    """
    name = re.sub(r"[/\\]+", "_", name)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        folder = output / (f"{stamp}_{name}" if number == 1 else f"{stamp}_{name}_{number}")
        try:
            folder.mkdir(parents=True)  # what two processes cannot both do
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _unwritable(folder, error) from error
        else:
            return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While a process is at work on a run no other goes on with it; raises DptrainError in that other one."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DptrainError(
            f"resume={folder}: another process is at work on this run; let it finish, or stop it first"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with disk_explained(f"resume={folder}", folder):
            yield
    finally:
        lock.release()


@contextmanager
def disk_explained(again: str, folder: Path | None = None) -> Iterator[None]:
    """A disk that is full, or not to be written to, as DptrainError; `again` goes on with the run."""
    try:
        yield
    except OSError as error:
        if (why := unwritable(error)) is None:
            raise
        if folder is not None and (folder / REPORT).exists():
            raise DptrainError(
                f"{why}; the run itself is complete, in {folder}: only what a tracker records of it is not"
            ) from error
        raise DptrainError(
            f"{why}; free space there, or make it writable, and go on with {again}; or set output to another "
            "folder and start anew"
        ) from error


def discard(folder: Path) -> None:
    """Take away the folder of a run that never began, and the one above if nothing else is in it."""
    with suppress(OSError):  # there is something in it: a run that began; or it is not to be written to
        if not (folder / ORDER).exists():
            (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()


def keep_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights into a run folder, whole or not at all."""
    write_bytes(saved(weights), folder / WEIGHTS)


def find(resume: str, output: Path) -> tuple[Path, Order]:
    """The run folder of this name, or the latest that is not complete, and its order."""
    folder = _latest(output) if resume == "latest" else _in_full(Path(resume))
    if not (folder / ORDER).is_file():
        raise ConfigError(
            f"resume={resume}: {folder} is no run folder (it holds no {ORDER}); give the folder that the run "
            "named when it was stopped, or resume=latest"
        )
    return folder, read(folder)


def _in_full(folder: Path) -> Path:
    """A folder by a path that ends in its name, in the folder that it lies in: a job's sweep is there."""
    resolved = folder.resolve()
    return folder if folder.name and folder.absolute() == resolved else resolved


def refuse_complete(resume: str, folder: Path) -> None:
    """Raise ConfigError where the run in this folder has nothing left to do."""
    if (folder / REPORT).exists():
        checkpoint.remove(folder)  # a run killed in its last moment may have left it
        raise ConfigError(f"resume={resume}: {folder} is complete; its report is {folder / 'report.md'}")


def earlier(order: Order) -> str | None:
    """That an earlier version asked for this, whose configuration had other keys; or None.

    >>> earlier(Order(recipe="mine", overrides=(), config={"training": {"prefetch": 2}}))
    'an earlier version of dptrain began it, whose training.prefetch is now performance.prefetch'
    >>> earlier(Order(recipe="mine", overrides=(), config={"task": "train"}))
    'an earlier version of dptrain began it, whose configuration has no section `game`'
    """
    old = [f"{key} is now {now}" for key, now in RENAMED.items() if present(order.config, key)]
    if old:
        return f"an earlier version of dptrain began it, whose {', '.join(old)}"
    if "game" not in order.config:
        return "an earlier version of dptrain began it, whose configuration has no section `game`"
    return None


def refuse_earlier(asked: str, order: Order) -> None:
    """Raise ConfigError where an earlier version began what was asked for."""
    if (why := earlier(order)) is not None:
        raise ConfigError(f"{asked}: {why}; use that version for it, or start a new run")


def refuse_given(asked: str, order: Order) -> None:
    """Raise ConfigError where a program handed over objects, which no run folder keeps."""
    nodes = ((name, order.config.get(name)) for name in ("model", "data"))
    if given := [name for name, node in nodes if isinstance(node, Mapping) and node.get(GIVEN)]:
        raise ConfigError(
            f"{asked}: a program handed over its {' and '.join(given)} as Python objects, which no run "
            f"folder keeps; start it anew in that program, "
            f"dptrain.run({', '.join(f'{each}=...' for each in given)}), or name importable classes in the "
            "configuration"
        )


def read(folder: Path) -> Order:
    """What a run folder was asked for."""
    state = read_state(folder)
    order = Order(**{each.name: getattr(state, each.name) for each in fields(Order)})
    return without_secrets(order)  # which earlier versions wrote down


def read_state(folder: Path) -> RunState:
    """What a run remembers."""
    return RunState.read(folder / ORDER)


def named(name: str, output: Path) -> Path | None:
    """The run folder under `output` of this name, or tracked under this id; None if there is none.

    `latest` is the training that was finished last; of a private selection, what it released.
    """
    if name == "latest":
        finished = sorted(output.glob(f"**/{WEIGHTS}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return next((path.parent for path in finished if _releasable(path.parent)), None)
    for path in output.glob(f"**/{ORDER}"):
        if path.parent.name == name:
            return path.parent
        with suppress(DptrainError):  # of another program, or damaged: it is not what is looked for
            if read_state(path.parent).tracked_as == name:
                return path.parent
    return None


def trial_of(order: Order) -> int | None:
    """The number of a private selection's trial; None where this is none."""
    sweep = order.config.get("sweep")
    return sweep.get("trial") if isinstance(sweep, Mapping) else None


def _releasable(folder: Path) -> bool:
    """Whether `latest` may mean this folder: a finished run's, or a selection's release, and no trial's."""
    if folder.name == RELEASE and (folder.parent / SELECTED).exists():
        return True
    if not (folder / REPORT).exists():
        return False
    return not (folder / ORDER).exists() or trial_of(read(folder)) is None


def started_by(order: Order, output: Path) -> Path | None:
    """The folder of a run that the same job of a launcher began by the same command, if there is one."""
    for path in output.glob(f"*/{ORDER}") if order.started_by is not None else ():
        with suppress(DptrainError):  # likewise
            state = read_state(path.parent)
            if (state.started_by, state.overrides) == (order.started_by, order.overrides):
                return path.parent
    return None


def _latest(output: Path) -> Path:
    there = (path.parent for path in output.glob(f"**/{ORDER}") if not _foreign(path))
    unfinished = [folder for folder in there if not (folder / REPORT).exists()]
    if not unfinished:
        raise ConfigError(f"resume=latest: no unfinished run in {output}; give resume=PATH or output=FOLDER")
    return max(unfinished, key=lambda folder: (folder / ORDER).stat().st_mtime)


def _foreign(path: Path) -> bool:
    """Whether a file of this name is another program's; one of ours that is damaged is not passed over."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return not isinstance(found, dict) or not {"recipe", "overrides", "config"} & found.keys()


def remember(folder: Path, **facts: Any) -> None:
    """Add facts that a resumed run must know, such as the id it is tracked under."""
    state = read_state(folder)
    for name, fact in facts.items():
        setattr(state, name, fact)
    state.write(folder / ORDER)


def remember_date(folder: Path, date: str) -> str:
    """When the training ended, as it was remembered first: a run that goes on keeps it."""
    kept = read_state(folder).trained
    if kept is None:
        remember(folder, trained=date)
    return date if kept is None else kept


def refuse_changed(folder: Path, changed: Iterable[str]) -> None:
    """Raise ConfigError where a run that goes on finds other things than it was begun with."""
    if named := ", ".join(changed):
        raise ConfigError(
            f"resume={folder}: changed since it was begun: {named}; resume it with what it was begun with, "
            "or start a new run"
        )


def remember_records(folder: Path, fingerprint: str) -> None:
    """Remember which records a run is trained on; raises ConfigError where a resumed run finds others.

    What is kept is a hash under a secret of the folder.
    """
    before = read_state(folder).records
    if before is not None and not (folder / SECRET).exists():
        raise ConfigError(
            f"resume={folder}: {SECRET} is gone, without which nobody can tell whether the records are those "
            "that it was begun on; restore it, or start a new run"
        )
    fingerprint = keyed(folder, fingerprint)
    if before is not None and before != fingerprint:
        raise ConfigError(
            f"resume={folder}: it was begun on other records, or another random assignment, than are found "
            "now; resume it with the data and version of dptrain that it was begun with, or start a new run"
        )
    remember(folder, records=fingerprint)


def same_records(folder: Path, fingerprint: str) -> bool | None:
    """Whether a run was trained on these records; None where its folder does not tell, or not its secret."""
    before = read_state(folder).records
    known = before is not None and (folder / SECRET).exists()
    return before == keyed(folder, fingerprint) if known else None
