"""Columns of a table: what each may hold, and the numbers that it becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dptrain.contracts import Sensitive

Wrong = tuple[np.ndarray, str]  # which rows (N,) bool, and what they do wrong


@dataclass(frozen=True, kw_only=True)
class Banded(Sensitive):
    """A sensitive number: its values are bands, each standing for all between two cut points."""

    cuts: Tensor  # (values - 1,), scaled as the inputs are

    def read(self, inputs: Tensor) -> Tensor:
        """The band that each input (N, width) lies in: (N,) int64; a cut point belongs to the band above."""
        return torch.bucketize(
            inputs[:, self.columns[0]].contiguous(), self.cuts.to(inputs), right=True
        ).long()


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number in declared bounds, scaled to [0, 1]; `clip` pulls what lies outside to the nearer bound."""

    name: str
    low: float
    high: float
    clip: bool = False
    bands: tuple[float, ...] = ()  # cut points

    width = 1
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def encode(self, cells: pd.Series) -> tuple[np.ndarray, list[Wrong]]:
        """Scaled numbers (N, 1), and what is wrong with which cells."""
        numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        empty, unread = cells.isna().to_numpy(), ~np.isfinite(numbers)
        outside = ~unread & ((numbers < self.low) | (numbers > self.high))
        wrong = [(empty, "is empty"), (unread & ~empty, "is not a finite number")]
        if not self.clip:
            wrong.append((outside, f"is outside the declared bounds [{self.low:g}, {self.high:g}]"))
        scaled = (np.clip(numbers, self.low, self.high) - self.low) / (self.high - self.low)
        return scaled[:, None], wrong

    def sensitive(self, at: int) -> Sensitive:
        """This column, which starts at position `at`, as one that attribute inference aims at."""
        ends = list(pairwise((self.low, *self.bands, self.high)))
        return Banded(
            name=self.name,
            columns=(at,),
            values=self._scaled([(low + high) / 2 for low, high in ends])[:, None],
            names=tuple(f"{low:g} to {high:g}" for low, high in ends),
            cuts=self._scaled(self.bands),
        )

    def _scaled(self, numbers: Sequence[float]) -> Tensor:
        exact = torch.tensor(numbers, dtype=torch.float64)
        return ((exact - self.low) / (self.high - self.low)).float()


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of the declared categories, as text; one-hot, in the order in which they are declared."""

    name: str
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.categories)

    @property
    def mean(self) -> tuple[float, ...]:
        return (1 / self.width,) * self.width

    @property
    def std(self) -> tuple[float, ...]:
        share = 1 / self.width
        return (math.sqrt(share * (1 - share)),) * self.width

    def codes(self, cells: pd.Series) -> tuple[np.ndarray, list[Wrong]]:
        """The position (N,) of each cell's category, -1 where it has none, and what is wrong."""
        empty = cells.isna().to_numpy()
        text = cells.map(as_text, na_action="ignore")
        codes = pd.Index(self.categories).get_indexer(text).astype(np.int64)
        return codes, [
            (empty, "is empty"),
            ((codes < 0) & ~empty, f"is none of the declared categories ({', '.join(self.categories)})"),
        ]

    def encode(self, cells: pd.Series) -> tuple[np.ndarray, list[Wrong]]:
        """One-hot rows (N, categories), and what is wrong with which cells."""
        codes, wrong = self.codes(cells)
        return np.eye(self.width)[codes], wrong

    def sensitive(self, at: int) -> Sensitive:
        """This column, which starts at position `at`, as one that attribute inference aims at."""
        return Sensitive(
            name=self.name,
            columns=tuple(range(at, at + self.width)),
            values=torch.eye(self.width),
            names=self.categories,
        )


def as_text(cell: Any) -> str:
    """A cell as a category would be written: whole numbers without a decimal point."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
