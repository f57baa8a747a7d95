"""The records of a data source, looked over before anything uses them."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Protocol

import torch

from dptrain.contracts import DataError, DptrainError, Mechanism, Splits, Streams
from dptrain.data.accepted import check_splits


class Source(Protocol):
    """Where records come from."""

    def load(self, rng: torch.Generator) -> Splits: ...


def load_splits(source: Source, streams: Streams) -> Splits:
    """The records of a source; raises DataError where they are not as the contract has them.

    Sources of ours have looked at each value themselves, as they read it.
    """
    kind = type(source)
    ours = kind.__module__.startswith("dptrain.data.")
    try:
        splits = source.load(streams.seeded("data"))
    except (DptrainError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        if ours:
            raise
        # Its text may quote a record: the user finds it with the place.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"data: `{kind.__module__}.{kind.__qualname__}`.load failed ({type(error).__name__} at "
            f"{Path(frame.filename).name}:{frame.lineno}); correct it, or its arguments beside data._target_"
        ) from error
    return check_splits(splits, source=f"{kind.__module__}.{kind.__qualname__}", values=not ours)


def declare_public(splits: Splits, mechanism: Mechanism, streams: Streams) -> Splits:
    """The splits with what the mechanism is told to take to be public, before anything is assigned."""
    declare = getattr(mechanism, "declare", None)
    if declare is None:
        return splits
    declared: Splits = declare(splits, streams.seeded("assignment"))
    return declared
