"""Columns of a table: what each may hold, and the numbers that it becomes.

A copy of this file goes with every served model of a table, so that it imports nothing of this package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

ISO = "%Y-%m-%d"
MISSING = "(missing)"

Wrong = tuple[np.ndarray, str]  # which rows (N,) bool, and what they do wrong


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number in declared bounds, scaled to [0, 1]; `clip` pulls what lies outside to the nearer bound.

    Where cells may be `missing`, a second number says so, and the first is the middle of the bounds.
    """

    name: str
    low: float
    high: float
    clip: bool = False
    missing: bool | str = False  # text: what stands in a cell that is missing
    bands: tuple[float, ...] = ()  # cut points

    @property
    def width(self) -> int:
        return 1 + bool(self.missing)

    @property
    def mean(self) -> tuple[float, ...]:
        return (0.5,) * self.width

    @property
    def std(self) -> tuple[float, ...]:
        return (0.25, 0.5)[: self.width]

    def encode(self, cells: pd.Series) -> tuple[np.ndarray, list[Wrong]]:
        """Scaled numbers (N, width), and what is wrong with which cells."""
        cells = emptied(cells, self.missing)
        numbers = self._read(cells)
        empty, unread = cells.isna().to_numpy(), ~np.isfinite(numbers)
        outside = ~unread & ((numbers < self.low) | (numbers > self.high))
        wrong = [(unread & ~empty, f"is not {self._what}")]
        if not self.missing:
            wrong.insert(0, (empty, "is empty"))
        if not self.clip:
            wrong.append((outside, f"is outside the declared bounds {self._bounds}"))
        scaled = (np.clip(numbers, self.low, self.high) - self.low) / (self.high - self.low)
        if not self.missing:
            return scaled[:, None], wrong
        return np.stack([np.where(empty, 0.5, scaled), empty.astype(np.float64)], axis=1), wrong

    def _read(self, cells: pd.Series) -> np.ndarray:
        """The numbers (N,) float64 that cells hold; not a number where they hold none."""
        if cells.dtype.kind in "mM":  # of which pandas would count nanoseconds
            return np.full(len(cells), np.nan)
        return pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)

    @property
    def _what(self) -> str:
        return "a finite number"

    @property
    def _bounds(self) -> str:
        return f"[{self.written(self.low)}, {self.written(self.high)}]"

    def written(self, number: float) -> str:
        """A number as it is declared."""
        return f"{number:.15g}"

    @property
    def example(self) -> Any:
        """A cell that this column takes, from its declaration."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, kw_only=True)
class Date(Number):
    """A day, its bounds in days since 1970, as a number; written by `format`, in the letters of strptime."""

    format: str = ISO

    def _read(self, cells: pd.Series) -> np.ndarray:
        written = cells.map(lambda cell: isinstance(cell, str)).to_numpy(bool)  # a workbook may mix them
        number = cells.map(lambda cell: isinstance(cell, int | float)).to_numpy(bool)
        times = pd.to_datetime(cells.where(written), format=self.format, errors="coerce", utc=True)
        held = cells.mask(written | number)
        if isinstance(held.dtype, pd.DatetimeTZDtype):
            held = held.dt.tz_localize(None)  # the day that it was there
        stored = pd.to_datetime(held, errors="coerce", utc=True)
        # In seconds: nanoseconds since 1970 end in 2262.
        days = (times.fillna(stored) - pd.Timestamp(0, tz="UTC").as_unit("s")) / pd.Timedelta(days=1)
        return np.floor(days.to_numpy(np.float64, na_value=np.nan))

    @property
    def example(self) -> Any:
        return pd.Timestamp(int(super().example), unit="D").strftime(self.format)

    @property
    def _what(self) -> str:
        return f"a date written as {self.format}"

    def written(self, number: float) -> str:
        return pd.Timestamp(number, unit="D").strftime(ISO)


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of the declared categories, as text; one-hot, in the order in which they are declared.

    Where cells may be `missing`, that is one more category, the last.
    """

    name: str
    declared: tuple[str, ...]
    missing: bool | str = False  # text: what stands in a cell that is missing

    @property
    def categories(self) -> tuple[str, ...]:
        return (*self.declared, MISSING) if self.missing else self.declared

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
        cells = emptied(cells, self.missing)
        empty = cells.isna().to_numpy()
        text = cells.map(self._as_declared, na_action="ignore")
        codes = pd.Index(self.declared).get_indexer(text).astype(np.int64)
        strange = (codes < 0) & ~empty
        wrong = [(strange, f"is none of the declared categories ({', '.join(self.declared)})")]
        if self.missing:
            return np.where(empty, len(self.declared), codes), wrong
        return codes, [(empty, "is empty"), *wrong]

    def _as_declared(self, cell: Any) -> str:
        """A cell as text; 1.0 is 1 where only that is declared, but 01 is never 1."""
        text = as_text(cell)
        if text not in self.declared and re.fullmatch(r"-?\d+\.0+", text):
            return text.partition(".")[0]
        return text

    def encode(self, cells: pd.Series) -> tuple[np.ndarray, list[Wrong]]:
        """One-hot rows (N, categories), and what is wrong with which cells."""
        codes, wrong = self.codes(cells)
        return np.eye(self.width)[codes], wrong

    @property
    def example(self) -> Any:
        """A cell that this column takes, from its declaration."""
        return self.declared[0]


KINDS = {kind.__name__: kind for kind in (Number, Date, Category)}


def as_text(cell: Any) -> str:
    """A cell as a category would be written: whole numbers without a decimal point."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def read(table: pd.DataFrame, settings: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Inputs (N, width) of the rows of a table, and all that is wrong with its cells, in words.

    `settings` are columns as `settings_of` writes them; a column whose cells may be missing may be, too.
    """
    blocks, problems = [], []
    for each in settings:
        column = KINDS[each["kind"]](
            **{name: _tuple(value) for name, value in each.items() if name != "kind"}
        )
        cells = table.get(column.name, pd.Series([None] * len(table), dtype=object))
        values, wrong = column.encode(cells)
        blocks.append(values)
        problems += [
            f"row {row}: {column.name} {what}"
            for rows, what in wrong
            for row in np.flatnonzero(rows).tolist()
        ]
    return np.concatenate(blocks, axis=1).astype(np.float32), problems


def settings_of(column: Number | Category) -> dict[str, Any]:
    """A column as plain values."""
    return {"kind": type(column).__name__, **vars(column)}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def emptied(cells: pd.Series, missing: bool | str) -> pd.Series:
    """The cells, of which those that hold what stands for a missing one are empty."""
    if not isinstance(missing, str):
        return cells
    return cells.mask(cells.map(lambda cell: as_text(cell) == missing).to_numpy(bool))
