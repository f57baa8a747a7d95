"""What a killed run needs to go on exactly where it was, and the record of what it has paid.

A checkpoint holds the secret keys of the steps to come, so that steps that were paid for but
lost are repeated with the *same* draws, which reveals nothing new and costs nothing more. The same noise on
a sum that rounds otherwise would give the difference away: the tag of each sum is kept until the next
checkpoint, and where a repeated sum is another one, the steps are taken with other draws and paid again.
Of steps without a tag no noise was seen here, but a copy of the folder may go on elsewhere, where no tag of
this one's is found: a process that goes on repeats what has a tag, and takes other secrets for all steps
after it, in a checkpoint that is written before the first of them. Whoever reads a checkpoint can undo the
noise: it is private to its owner (mode 0600), never logged, and removed when the run is complete.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dptrain.contracts import DptrainError
from dptrain.storage import write_bytes

CHECKPOINT = "checkpoint.pt"
LEDGER = "ledger.json"
SEALS = "sums.bin"
BEFORE = "before"  # the folder of what was released before the first step
SHARDS = "shards-"  # begins the names of folders, for a model that is divided among processes
# What a checkpoint of a training holds at least; one of numbers that are released once holds the others.
OF_STEPS = {
    "plan": dict, "step": int, "lost": int, "blocks": dict, "history": list, "model": dict, "schedule": dict,
    "sampler": dict, "masks": dict, "observers": list, "optimizer": dict | None, "average": dict | None,
    "noise": dict | None, "audit": dict | None,
}  # fmt: skip
OF_ONE_RELEASE = {"terms": dict, "made": dict | None}
SEAL = struct.Struct("<Q16s")  # a step and the tag of its sum


def save(state: dict[str, Any], folder: Path) -> None:
    """Write the checkpoint whole or not at all."""
    # In memory first: on a full disk torch.save would fail with an error of its own that names no cause.
    content = io.BytesIO()
    torch.save(state, content)
    write(folder / CHECKPOINT, content.getbuffer())


def load(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in this folder, or None; raises DptrainError where it cannot be read or is not whole."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, type(error).__name__) from error
    if (why := _what_is_wrong(state)) is not None:
        raise _unreadable(path, why)
    return state


def _what_is_wrong(state: object) -> str | None:
    """Why this is no state that `save` was given; None where it is."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}"
    for key, kind in (OF_ONE_RELEASE if "terms" in state else OF_STEPS).items():
        if key not in state:
            return f"it holds no {key}"
        if not isinstance(state[key], kind):
            return f"its {key} is a {type(state[key]).__name__}"
    return None if "terms" in state else _what_is_wrong_within(state)


def _what_is_wrong_within(state: Mapping[str, Any]) -> str | None:
    """What of these parts would be noticed late, such as by a report, when all is trained."""
    sizes = state["blocks"].values()
    if not all(_is_count(each) and each > 0 for each in sizes):
        return "its blocks are no sizes"
    if not all(_is_count(state[name]) for name in ("step", "lost")):
        return "it holds no number of steps"
    for entry in state["history"]:
        if not (isinstance(entry, tuple | list) and len(entry) == 3 and _is_count(entry[0])):
            return "its history is none"
        if not all(isinstance(each, int | float | None) for each in entry[1:]):
            return "its history is none"
    audit = state["audit"]
    if audit is not None and not all(map(_is_count, audit.get("steps") or ["none"])):
        return "its audit names no steps"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Within, parts of a checkpoint are taken; raises DptrainError where one is not as it was written."""
    try:
        yield
    except (DptrainError, torch.OutOfMemoryError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error) as error:
        raise _unreadable(folder / CHECKPOINT, type(error).__name__) from error


def refuse_beyond(folder: Path, paid: int, steps: int) -> None:
    """Raise DptrainError where the ledger says that more is paid for than there are steps in all."""
    if paid > steps:
        raise _unreadable(folder / LEDGER, f"{paid} steps paid for, of {steps} in all")


def remove(folder: Path) -> None:
    """Forget the checkpoint and with it the secret state of the generators."""
    half_written = folder.glob(f".{CHECKPOINT}.*")  # left by a run that was killed meanwhile
    for path in (folder / CHECKPOINT, folder / SEALS, *half_written):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / BEFORE, ignore_errors=True)
    forget_shards(folder)


def forget_shards(folder: Path, kept: str | None = None) -> None:
    """Remove what processes wrote of a divided model, but for the folder of this name."""
    for path in folder.glob(f"{SHARDS}*"):
        if path.name != kept:
            shutil.rmtree(path, ignore_errors=True)


def pay(folder: Path, *, steps: int, epsilon: float) -> None:
    """Record that `steps` steps are paid for, before the last of them is taken."""
    entry = json.dumps({"steps": steps, "epsilon": epsilon if math.isfinite(epsilon) else None}).encode()
    write(folder / LEDGER, entry, durable=False)


def seal(folder: Path, *, step: int, tag: bytes) -> None:
    """Remember the tag of a step's sum, before it is paid for."""
    descriptor = os.open(folder / SEALS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, SEAL.pack(step, tag))
    finally:
        os.close(descriptor)


def seals(folder: Path) -> dict[int, bytes]:
    """The tags of sums since the checkpoint, each as it was first; half a tag at the end is cut off."""
    path = folder / SEALS
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = len(content) - len(content) % SEAL.size
    if whole < len(content):
        os.truncate(path, whole)
    return dict(reversed(list(SEAL.iter_unpack(content[:whole]))))


def settle(folder: Path) -> None:
    """Have the ledger and the tags on the disk, whatever becomes of the machine: before anything is told."""
    there = [path for path in (folder / LEDGER, folder / SEALS) if path.exists()]
    for path in there + [folder] * (os.name == "posix"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def forget_seals(folder: Path, until: int | None = None) -> None:
    """Forget the tags of sums that nobody repeats: all, or those of steps until this one."""
    left = {} if until is None else {step: tag for step, tag in seals(folder).items() if step > until}
    if left:
        write(folder / SEALS, b"".join(SEAL.pack(step, tag) for step, tag in left.items()))
    else:
        (folder / SEALS).unlink(missing_ok=True)


def paid(folder: Path) -> int:
    """How many steps the ledger says are paid for.

    Raises DptrainError where it cannot be read, or says less than the checkpoint beside it.
    """
    path = folder / LEDGER
    if not path.exists():
        steps = 0
    else:
        try:
            steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _unreadable(path, type(error).__name__) from error
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise _unreadable(path, f"steps={steps} is no number of steps")
    if (reached := _reached(folder)) > steps:
        raise _unreadable(path, f"{steps} steps paid for, and {reached} in {CHECKPOINT}")
    return steps


def _reached(folder: Path) -> int:
    """How many steps the checkpoint holds, all of which were paid for; 0 where `load` refuses it."""
    try:
        # Of a large model nothing but these numbers is read.
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return 0
    if _what_is_wrong(state) is not None:
        return 0
    return int(state["made"] is not None) if "terms" in state else state["step"] + state["lost"]


def _unreadable(path: Path, why: str) -> DptrainError:
    return DptrainError(
        f"resume={path.parent}: {path.name} cannot be read ({why}); "
        "start the run anew: nothing of it was released"
    )


def write(path: Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a private file, whole; a full disk leaves the old file as it was."""
    write_bytes(content, path, private=True, durable=durable)
