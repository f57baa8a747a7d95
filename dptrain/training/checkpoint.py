"""What a killed run needs to go on exactly where it was, and the record of what it has paid.

A checkpoint holds the secret keys of the steps to come, so that steps that were paid for but
lost are repeated with the *same* draws, which reveals nothing new and costs nothing more. The same noise on
a sum that rounds otherwise would give the difference away: the tag of each sum is kept until the next
checkpoint, and where a repeated sum is another one, the steps are taken with other draws and paid again.
Whoever reads a checkpoint can undo the noise: it is private to its owner (mode 0600), never logged, and
removed when the run is complete.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
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
SEAL = struct.Struct("<Q16s")  # a step and the tag of its sum


def save(state: dict[str, Any], folder: Path) -> None:
    """Write the checkpoint whole or not at all."""
    # In memory first: on a full disk torch.save would fail with an error of its own that names no cause.
    content = io.BytesIO()
    torch.save(state, content)
    write(folder / CHECKPOINT, content.getbuffer())


def load(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in this folder, or None; raises DptrainError where it cannot be read."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    return state


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


def forget_seals(folder: Path, until: int | None = None) -> None:
    """Forget the tags of sums that nobody repeats: all, or those of steps until this one."""
    left = {} if until is None else {step: tag for step, tag in seals(folder).items() if step > until}
    if left:
        write(folder / SEALS, b"".join(SEAL.pack(step, tag) for step, tag in left.items()))
    else:
        (folder / SEALS).unlink(missing_ok=True)


def paid(folder: Path) -> int:
    """How many steps the ledger says are paid for; raises DptrainError where it cannot be read."""
    path = folder / LEDGER
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_text())["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DptrainError:
    return DptrainError(
        f"resume={path.parent}: {path.name} cannot be read ({type(error).__name__}); "
        "start the run anew: nothing of it was released"
    )


def write(path: Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a private file, whole; a full disk leaves the old file as it was."""
    write_bytes(content, path, private=True, durable=durable)
