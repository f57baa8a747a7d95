"""What a table must be; one that is not as declared is refused with all that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dptrain.contracts import DataError, Sensitive
from dptrain.data.columns import MISSING, Category, Number, Wrong, as_text
from dptrain.data.labels import within
from dptrain.data.sensitive import sensitive

LISTED = 20  # violations told one by one; the rest are counted


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A table as numbers: inputs (N, width), labels (N, ...), group names (N,), part of the split (N,).

    Of the columns that subgroups are told apart by, the value of each row: (N,) text.
    """

    inputs: Tensor
    labels: Tensor
    groups: np.ndarray | None
    parts: np.ndarray | None
    subgroups: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What every column of a table is for."""

    columns: tuple[Number | Category, ...]  # of the inputs, in order
    target: tuple[Number | Category, ...]  # several: of each whether a record has it
    sensitive: tuple[str, ...] = ()
    group: str | None = None
    split: Category | None = None  # its categories name the parts
    ignored: tuple[str, ...] = ()
    subgroups: tuple[str, ...] = ()  # columns of the inputs, or ignored ones

    @property
    def mean(self) -> tuple[float, ...]:
        return sum((column.mean for column in self.columns), ())

    @property
    def std(self) -> tuple[float, ...]:
        return sum((column.std for column in self.columns), ())

    @property
    def _starts(self) -> list[int]:
        """Where each column begins in an input."""
        return np.cumsum([0, *(column.width for column in self.columns)]).tolist()

    @property
    def targets(self) -> tuple[Sensitive, ...]:
        """The sensitive columns, where they sit in an input."""
        placed = {
            column.name: sensitive(column, at)
            for column, at in zip(self.columns, self._starts, strict=False)
            if column.name in self.sensitive
        }
        return tuple(placed[name] for name in self.sensitive)

    def encode(self, table: pd.DataFrame, *, where: str) -> Encoded:
        """The table as numbers; the index says where a row is found, its name what that counts.

        Raises one DataError that lists every column and every cell that is not as declared.
        """
        wrong = _Violations(table, where)
        wrong.columns(expected=self._expected(), ignored=self.ignored)
        blocks = []
        for column in self.columns:
            if column.name in table:
                values, found = column.encode(table[column.name])
                wrong.add(column.name, found)
                blocks.append(values)
        labels = [self._labels(column, table, wrong) for column in self.target]
        split = None if self.split is None else self._codes(self.split, table, wrong)
        groups = None
        if self.group is not None and self.group in table:
            named = table[self.group].map(lambda cell: as_text(cell).strip(), na_action="ignore")
            wrong.add(self.group, [((named.isna() | (named == "")).to_numpy(bool), "is empty")])
            groups = named.to_numpy(object)
        wrong.refuse()
        inputs = torch.from_numpy(np.concatenate(blocks, axis=1)).float()
        return Encoded(
            inputs=inputs,
            labels=labels[0] if len(labels) == 1 else torch.stack(labels, 1).float(),
            groups=None if groups is None else groups.astype(str),
            parts=split,
            subgroups={name: self._values(name, inputs, table[name]) for name in self.subgroups},
        )

    def _values(self, name: str, inputs: Tensor, cells: pd.Series) -> np.ndarray:
        """The value of each row in a column: its category, its band, or the text of an ignored one."""
        placed = {column.name: (column, at) for column, at in zip(self.columns, self._starts, strict=False)}
        if name not in placed:
            return cells.map(as_text, na_action="ignore").fillna(MISSING).to_numpy(object)
        column, at = placed[name]
        found = sensitive(column, at)
        values = np.array(found.names, dtype=object)[found.read(inputs).numpy()]
        if isinstance(column, Number) and column.missing:
            values[inputs[:, at + 1].bool().numpy()] = MISSING
        return values

    def _expected(self) -> list[str]:
        names = [column.name for column in (*self.columns, *self.target)]
        names += [name for name in self.subgroups if name not in names]
        return names + [name for name in (self.group, self.split and self.split.name) if name]

    @classmethod
    def _labels(cls, column: Number | Category, table: pd.DataFrame, wrong: _Violations) -> Tensor:
        """Positions of categories, or numbers in their own unit."""
        if isinstance(column, Category):
            return torch.from_numpy(cls._codes(column, table, wrong))
        if column.name not in table:
            return torch.zeros(0)
        scaled, found = column.encode(table[column.name])
        wrong.add(column.name, found)
        bounds = column.low, column.high
        return within(bounds[0] + (bounds[1] - bounds[0]) * scaled[:, 0], bounds)

    @staticmethod
    def _codes(column: Category, table: pd.DataFrame, wrong: _Violations) -> np.ndarray:
        if column.name not in table:
            return np.zeros(0, np.int64)
        codes, found = column.codes(table[column.name])
        wrong.add(column.name, found)
        return codes


class _Violations:
    """Everything in a table that is not as declared, to be told at once."""

    def __init__(self, table: pd.DataFrame, where: str) -> None:
        self._table, self._where = table, where
        self._count = 0
        self._cells: list[tuple[int, str]] = []
        self._headers: list[str] = []

    def columns(self, *, expected: Sequence[str], ignored: Sequence[str]) -> None:
        held = [str(name) for name in self._table.columns]
        self._headers += [f"column {name} is missing" for name in expected if name not in held]
        self._headers += [
            f"column {name} is not declared" for name in held if name not in {*expected, *ignored}
        ]

    def add(self, column: str, found: Sequence[Wrong]) -> None:
        for rows, what in found:
            self._count += int(rows.sum())
            for row in np.flatnonzero(rows)[:LISTED].tolist():
                place = f"{self._table.index.name or 'row'} {self._table.index[row]}"
                self._cells.append((row, f"{place}: {column} {what}"))  # and not what it holds

    def refuse(self) -> None:
        """Raise the DataError that lists them, if there are any."""
        if not self._headers and not self._count:
            return
        lines = self._headers + [text for _, text in sorted(self._cells)[:LISTED]]
        if self._count > LISTED:
            lines.append(f"and {self._count - LISTED} more")
        raise DataError(
            f"{self._where} is not as data.columns, data.target and their like declare it:\n  "
            + "\n  ".join(lines)
            + "\nCorrect the table, or declare what it holds: wider `bounds` (or `clip: true`), another "
            "category, `missing: true` for a column of which cells may be empty (`missing: '?'` where that "
            "stands in them), columns that are not used in data.ignored, a target that is a number by "
            "data.task=regression with data.target_bounds"
        )
