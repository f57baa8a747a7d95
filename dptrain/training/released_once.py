"""Noisy numbers that are drawn once: a run that goes on takes those it has paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dptrain.contracts import DptrainError
from dptrain.training import checkpoint

Made = TypeVar("Made")


def get(
    folder: Path | None,
    terms: Mapping[str, Any],
    release: Callable[[], Made],
    *,
    epsilon: float,
    kind: type[Made],
) -> Made:
    """What `release` made for these terms when it was first called for this folder (None: now).

    That is of this `kind`, a dataclass of tensors. It is written before anything is made of it, so that a run
    that was killed earlier has shown it to nobody, and draws anew. Raises DptrainError where what was paid
    for is gone, or of other terms.
    """
    if folder is None:
        return release()
    state, paid = checkpoint.load(folder), checkpoint.paid(folder)
    if state is None:
        if paid:
            raise DptrainError(
                f"resume={folder}: its noisy numbers are paid for but {checkpoint.CHECKPOINT} is gone, and "
                "to draw noise again would be to pay again; start a new run"
            )
        checkpoint.save({"terms": dict(terms), "made": None}, folder)
    elif state.get("terms") != dict(terms):
        raise DptrainError(
            f"resume={folder}: it was begun under another plan, or with another frozen part of the model, "
            "than are found now; resume it with the data, the configuration and the library versions that "
            "it was begun with, or start a new run"
        )
    elif state["made"] is not None:
        return kind(**state["made"])
    checkpoint.pay(folder, steps=1, epsilon=epsilon)
    made = release()
    checkpoint.save({"terms": dict(terms), "made": vars(made)}, folder)
    return made
