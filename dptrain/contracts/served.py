"""A model as others are given it: raw values in, what is released of its predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dptrain.contracts.trees import Inputs


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a record is before it becomes an input: columns of a table, or an image.

    `code` is a file with a function `read(table, settings)` that gives the inputs (N, ...) and all that is
    wrong in words; it travels with the model, so that it imports nothing of this package.
    """

    code: Path
    settings: Any  # plain values, for `read`
    example: Mapping[str, Any]  # one cell a column, made from declarations alone
    needs: tuple[str, ...] = ()  # packages besides pandas, by which the code reads
    optional: frozenset[str] = frozenset()  # columns that may be left out


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model to be kept for whoever asks it for predictions.

    `answers` takes inputs (N, ...) and gives what is released of predictions; `names` are those of its
    columns, none where an answer is no row. `blank` are two inputs that are no records; `metadata` is what
    is proved of the model. `verdict` on it is one word; None: it must not be passed on.
    """

    answers: nn.Module
    blank: Inputs
    names: tuple[str, ...]
    raw: Raw | None
    metadata: Mapping[str, Any]
    verdict: str | None
