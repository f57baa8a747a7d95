"""Noisy moments that are drawn once: a run that goes on takes those it has paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dptrain.contracts import DptrainError
from dptrain.privacy.exact_moments import Moments
from dptrain.training import checkpoint


def get(
    folder: Path | None, terms: Mapping[str, Any], release: Callable[[], Moments], *, epsilon: float
) -> Moments:
    """What `release` made for these terms when it was first called for this folder (None: now).

    The noisy moments are written before anything is made of them, so that a run that was killed earlier has
    shown them to nobody, and draws anew. Raises DptrainError where they are gone, or of other terms.
    """
    if folder is None:
        return release()
    state, paid = checkpoint.load(folder), checkpoint.paid(folder)
    if state is None:
        if paid:
            raise DptrainError(
                f"resume={folder}: its noisy moments are paid for but {checkpoint.CHECKPOINT} is gone, and "
                "to draw noise again would be to pay again; start a new run"
            )
        checkpoint.save({"terms": dict(terms), "moments": None}, folder)
    elif state.get("terms") != dict(terms):
        raise DptrainError(
            f"resume={folder}: it was begun under another plan, or with another frozen part of the model, "
            "than are found now; resume it with the data, the configuration and the library versions that "
            "it was begun with, or start a new run"
        )
    elif state["moments"] is not None:
        return Moments(**state["moments"])
    checkpoint.pay(folder, steps=1, epsilon=epsilon)
    moments = release()
    checkpoint.save({"terms": dict(terms), "moments": vars(moments)}, folder)
    return moments
