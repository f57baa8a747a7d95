"""What a table must be, as declared in YAML; a declaration or a table that is wrong, with all that is."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Sensitive
from dptrain.data.columns import ISO, Category, Date, Number, Wrong, as_text

EPOCH = dt.date(1970, 1, 1)
LISTED = 20  # violations told one by one; the rest are counted


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A table as numbers: inputs (N, width), labels (N,), group names (N,), part of the split (N,)."""

    inputs: Tensor
    labels: Tensor
    groups: np.ndarray | None
    parts: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What every column of a table is for."""

    columns: tuple[Number | Category, ...]  # of the inputs, in order
    target: Category
    sensitive: tuple[str, ...] = ()
    group: str | None = None
    split: Category | None = None  # its categories name the parts
    ignored: tuple[str, ...] = ()

    @property
    def mean(self) -> tuple[float, ...]:
        return sum((column.mean for column in self.columns), ())

    @property
    def std(self) -> tuple[float, ...]:
        return sum((column.std for column in self.columns), ())

    @property
    def targets(self) -> tuple[Sensitive, ...]:
        """The sensitive columns, where they sit in an input."""
        starts = np.cumsum([0, *(column.width for column in self.columns)]).tolist()
        placed = {
            column.name: column.sensitive(at)
            for column, at in zip(self.columns, starts, strict=False)
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
        labels = self._codes(self.target, table, wrong)
        split = None if self.split is None else self._codes(self.split, table, wrong)
        groups = None
        if self.group is not None and self.group in table:
            wrong.add(self.group, [(table[self.group].isna().to_numpy(), "is empty")])
            groups = table[self.group].map(as_text, na_action="ignore").to_numpy(object)
        wrong.refuse()
        return Encoded(
            inputs=torch.from_numpy(np.concatenate(blocks, axis=1)).float(),
            labels=torch.from_numpy(labels),
            groups=None if groups is None else groups.astype(str),
            parts=split,
        )

    def _expected(self) -> list[str]:
        names = [*(column.name for column in self.columns), self.target.name]
        return names + [name for name in (self.group, self.split and self.split.name) if name]

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
            "category, `missing: true` for a column of which cells may be empty, columns that are not "
            "used in data.ignored"
        )


FIELDS = {
    "number": {"kind", "bounds", "clip", "missing", "bands"},
    "date": {"kind", "bounds", "clip", "missing", "bands", "format"},
    "category": {"kind", "categories", "missing"},
}
PARTS = ("train", "test", "holdout")


def parse_schema(
    *,
    columns: Mapping[str, Any],
    target: str,
    classes: Sequence[Any],
    sensitive: Sequence[str],
    group: str | None,
    split: Mapping[str, Any] | None,
    ignored: Sequence[str],
) -> Schema:
    """The schema that these settings describe; raises one ConfigError that lists all that is wrong."""
    problems: list[str] = []
    made = [_column(str(name), node, problems) for name, node in columns.items()]
    known = {column.name: column for column in made if column is not None}
    if not columns:
        problems.append("data.columns={} must declare at least one column; e.g. age: {kind: number, ...}")
    labels = _category(target, "data.classes", classes, problems)
    parts = None if split is None else _split(split, problems)
    _one_role_each(
        problems,
        columns=[str(name) for name in columns],
        target=[target],
        group=[group] if group else [],
        split=[parts.name] if parts else [],
        ignored=list(ignored),
    )
    for name in sensitive:
        if name not in {str(declared) for declared in columns}:
            problems.append(
                f"data.sensitive={name} is not declared; name one of data.columns: "
                f"{', '.join(map(str, columns))}"
            )
        column = known.get(name)
        if isinstance(column, Number) and column.missing:
            problems.append(
                f"data.sensitive={name} is a number that may be missing, of which no attack can be scored; "
                f"take it from data.sensitive, or missing from data.columns.{name}"
            )
        if isinstance(column, Number) and not column.bands:
            problems.append(
                f"data.sensitive={name} is a number without bands; declare cut points, "
                f"e.g. bands: [{(column.low + column.high) / 2:g}], in data.columns.{name}"
            )
    if len(set(sensitive)) < len(sensitive):
        problems.append(f"data.sensitive={list(sensitive)} names a column twice; name each once")
    if problems or labels is None:
        raise ConfigError("\n".join(problems))
    return Schema(
        columns=tuple(known.values()),
        target=labels,
        sensitive=tuple(sensitive),
        group=group,
        split=parts,
        ignored=tuple(ignored),
    )


def _column(name: str, node: Any, problems: list[str]) -> Number | Category | None:
    key = f"data.columns.{name}"
    kind = node.get("kind") if isinstance(node, Mapping) else None
    if kind not in FIELDS:
        problems.append(
            f"{key}={node} must have kind: number or kind: date (with bounds) or kind: category (with "
            "categories)"
        )
        return None
    problems += [
        f"{key}.{field}: no such key; a {kind} takes {', '.join(sorted(FIELDS[kind]))}"
        for field in sorted(set(map(str, node)) - FIELDS[kind])
    ]
    missing = node.get("missing", False)
    if not isinstance(missing, bool):
        problems.append(f"{key}.missing={missing} must be true (cells may be empty) or false")
    if kind == "category":
        found = _category(name, f"{key}.categories", node.get("categories"), problems)
        return None if found is None else replace(found, missing=missing is True)
    if kind == "date":
        return _date(name, key, node, problems)
    return _number(name, key, node, problems)


def _date(name: str, key: str, node: Mapping[str, Any], problems: list[str]) -> Number | None:
    """A column of dates: a number of days, between bounds written year-month-day."""
    written = str(node.get("format", ISO))
    try:
        dt.datetime(2001, 2, 3).strftime(written)
        days = {
            field: [(dt.date.fromisoformat(str(each)) - EPOCH).days for each in node.get(field, ())]
            for field in ("bounds", "bands")
        }
    except (ValueError, TypeError):
        problems.append(
            f"{key}: bounds and bands of dates are written year-month-day, and `format` as strptime has it; "
            "e.g. {kind: date, bounds: ['2000-01-01', '2029-12-31'], format: '%d.%m.%Y'}"
        )
        return None
    number = _number(name, key, {**node, **days}, problems)
    if number is None:
        return None
    return Date(**{each.name: getattr(number, each.name) for each in fields(number)}, format=written)


def _number(name: str, key: str, node: Mapping[str, Any], problems: list[str]) -> Number | None:
    bounds, clip, bands = node.get("bounds"), node.get("clip", False), node.get("bands", ())
    if not _numbers(bounds) or len(bounds) != 2 or not bounds[0] < bounds[1]:
        problems.append(
            f"{key}.bounds={bounds} must be two finite numbers, the lower first, from public knowledge"
        )
        return None
    if not isinstance(clip, bool):
        problems.append(f"{key}.clip={clip} must be true or false")
    if not _numbers(bands) or any(
        not low < high for low, high in zip([bounds[0], *bands], [*bands, bounds[1]], strict=True)
    ):
        problems.append(f"{key}.bands={bands} must be rising cut points inside the bounds {list(bounds)}")
        return None
    return Number(
        name=name,
        low=float(bounds[0]),
        high=float(bounds[1]),
        clip=bool(clip),
        missing=node.get("missing", False) is True,
        bands=tuple(float(cut) for cut in bands),
    )


def _category(name: str, key: str, values: Any, problems: list[str]) -> Category | None:
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if any(isinstance(value, bool) or not isinstance(value, str | int) for value in listed):
        problems.append(f"{key}={listed} must be words or whole numbers; quote yes, no, true, false and ?")
    named = tuple(str(value) for value in listed)
    twice = sorted({value for value in named if named.count(value) > 1})
    if twice:
        problems.append(f"{key}: {', '.join(twice)} is declared more than once; declare each once")
    if len(named) < 2:
        problems.append(f"{key}={values} must be a list of at least two, such as [no, maybe, 'yes']")
        return None
    return Category(name=name, declared=named)


def _split(split: Mapping[str, Any], problems: list[str]) -> Category | None:
    """The column that says to which part a row belongs; its categories in the order of PARTS."""
    strange = sorted(set(map(str, split)) - {"column", *PARTS})
    lacking = [field for field in ("column", "train", "test") if split.get(field) is None]
    if strange or lacking:
        problems.append(
            f"data.split={dict(split)} must be {{column: a column, train: its value, test: its value}}, and "
            f"perhaps holdout: its value"
        )
        return None
    values = [split[part] for part in PARTS if split.get(part) is not None]
    return _category(str(split["column"]), "data.split", values, problems)


def _one_role_each(problems: list[str], **roles: list[str]) -> None:
    seen: dict[str, str] = {}
    for role, names in roles.items():
        for name in names:
            if name in seen:
                problems.append(
                    f"data.{role}: column {name} is already in data.{seen[name]}; give it one role"
                )
            seen.setdefault(name, role)


def _numbers(values: Any) -> TypeGuard[Sequence[float]]:
    """Whether this is a list of finite numbers."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for value in values
        )
    )
