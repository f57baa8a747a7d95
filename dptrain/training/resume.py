"""Going on with a killed training: from its checkpoint, under the same plan, with the same parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dptrain.contracts import (
    DptrainError,
)
from dptrain.training import checkpoint
from dptrain.training.session import Session


def resume(session: Session) -> int:
    """Take the checkpoint's state, if there is one; how many steps were paid for beyond it."""
    folder = session.context.folder
    if folder is None:
        return 0
    state, paid = checkpoint.load(folder), checkpoint.paid(folder)
    if state is None:
        if paid:
            raise DptrainError(
                f"resume={folder}: {paid} steps are paid for but {checkpoint.CHECKPOINT} is gone, so they "
                "cannot be repeated with the same noise; start a new run"
            )
        return 0
    now = asdict(session.plan)
    if changed := [
        f"{key}={state['plan'][key]} is now {now[key]}" for key in now if state["plan"][key] != now[key]
    ]:
        raise DptrainError(
            f"resume={folder}: it was begun under another plan ({'; '.join(changed)}); resume it with the "
            "data and the library versions that it was begun with, or start a new run"
        )
    if state.get("made_by") != session.made_by:
        raise DptrainError(
            f"resume={folder}: the frozen part of the model is not the one that it was begun with, and its "
            "head knows no other features; resume it on the machine, the device and the library versions "
            "that it was begun with, or start a new run"
        )
    _refuse_others(folder, state, session.state_dict())
    session.load_state_dict(state)
    return max(0, paid - session.step)


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DptrainError where a checkpoint is of a model of other shapes, or of another optimizer."""
    shapes, found = (
        {name: tuple(value.shape) for name, value in each["model"].items()} for each in (before, now)
    )
    other = [
        f"`{name}` {shapes.get(name, 'absent')} is now {found.get(name, 'absent')}"
        for name in {**shapes, **found}
        if shapes.get(name) != found.get(name)
    ]
    for key in ("optimizer_class", "optimizer_arguments"):
        if before.get(key, now[key]) != now[key]:
            other.append(f"{key.replace('_', ' ')} {before[key]} is now {now[key]}")
    if other:
        more = f"; and {len(other) - 3} more" if len(other) > 3 else ""
        raise DptrainError(
            f"resume={folder}: it was begun with another model or optimizer ({'; '.join(other[:3])}{more}); "
            "resume it with those that it was begun with, or start a new run"
        )
