"""Columns of a table that attribute inference aims at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dptrain.contracts import Sensitive
from dptrain.data.columns import Category, Number


@dataclass(frozen=True, kw_only=True)
class Banded(Sensitive):
    """A sensitive number: its values are bands, each standing for all between two cut points."""

    cuts: Tensor  # (values - 1,), scaled as the inputs are

    def read(self, inputs: Tensor) -> Tensor:
        """The band that each input (N, width) lies in: (N,) int64; a cut point belongs to the band above."""
        return torch.bucketize(
            inputs[:, self.columns[0]].contiguous(), self.cuts.to(inputs), right=True
        ).long()


def sensitive(column: Number | Category, at: int) -> Sensitive:
    """This column, which starts at position `at` of an input, as one that attribute inference aims at."""
    if isinstance(column, Category):
        return Sensitive(
            name=column.name,
            columns=tuple(range(at, at + column.width)),
            values=torch.eye(column.width),
            names=column.categories,
        )
    ends = list(pairwise((column.low, *column.bands, column.high)))
    return Banded(
        name=column.name,
        columns=(at,),
        values=_scaled(column, [(low + high) / 2 for low, high in ends])[:, None],
        names=tuple(f"{column.written(low)} to {column.written(high)}" for low, high in ends),
        cuts=_scaled(column, column.bands),
    )


def _scaled(column: Number, numbers: Sequence[float]) -> Tensor:
    exact = torch.tensor(numbers, dtype=torch.float64)
    return ((exact - column.low) / (column.high - column.low)).float()
