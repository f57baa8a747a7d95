"""A table, CSV, Parquet or Excel, with a declared schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.columns import Number, emptied
from dptrain.data.declare import PARTS, parse_schema
from dptrain.data.labels import Target
from dptrain.data.made_up import declared, parts_of
from dptrain.data.published import Published
from dptrain.data.raw import of_table
from dptrain.data.schema import Encoded, Schema
from dptrain.data.splits import Cut, assemble, assignment_key, divide, number_groups
from dptrain.data.tables import TableFile


@dataclass(frozen=True, kw_only=True)
class Tabular(Cut):
    """Rows of a table as inputs (width,): numbers scaled by declared bounds, categories one-hot.

    `columns` declares what each column holds, in the order of the inputs; `target` is the column
    of labels, `classes` its values in label order; of `task` regression it is a number in `target_bounds`, of
    multi_label several columns of 0 and 1. `ignored` names columns that are not used.
    Attribute inference aims at the `sensitive` columns. What the model is able to do for whom is measured by
    the `subgroups`, columns or ignored ones. Rows with the same `group` are one person's.
    `split` says by which column and values the table is divided already; otherwise, and for the
    held-out rows it does not name, each person (or row) is assigned by a keyed hash.

    `path` is looked for in `root`, in the folder DPTRAIN_DATA, as it stands, and in `cache`; if it
    is nowhere, or null, `published` is read. Nothing is computed from the rows: mean and std
    follow from the schema.
    """

    columns: Mapping[str, Any]
    target: str | Sequence[str]
    classes: Sequence[Any] | None = None
    task: str = "classification"
    target_bounds: Sequence[float] | None = None
    path: str | None = None
    name: str | None = None  # None: the path's
    sensitive: Sequence[str] = ()
    subgroups: Sequence[str] = ()
    group: str | None = None
    split: Mapping[str, Any] | None = None
    ignored: Sequence[str] = ()
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."
    sheet: str | None = None  # of a workbook; None: its first
    root: str | None = None
    cache: str | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is None and self.published is None:
            raise ConfigError("data.path=null: give the path of a table, or choose data=breast_cancer")
        _ = self.file
        _ = self.schema

    @cached_property
    def schema(self) -> Schema:
        """The declared schema; raises ConfigError where it contradicts itself."""
        return parse_schema(
            columns=self.columns,
            target=self.target,
            classes=self.classes,
            task=self.task,
            target_bounds=self.target_bounds,
            sensitive=self.sensitive,
            group=self.group,
            split=self.split,
            ignored=self.ignored,
            subgroups=self.subgroups,
        )

    @cached_property
    def labels(self) -> Target:
        """What labels are declared to be."""
        columns = self.schema.target
        first, names = columns[0], [column.name for column in columns]
        if isinstance(first, Number):
            return Target.of(self.task, classes=None, bounds=(first.low, first.high), name=first.name)
        return Target.of(self.task, classes=first.categories if len(columns) == 1 else names)

    @cached_property
    def file(self) -> TableFile | None:
        """The table's file, as declared; raises ConfigError."""
        if self.path is None:
            return None
        return TableFile(
            path=self.path,
            encoding=self.encoding,
            delimiter=self.delimiter,
            decimal=self.decimal,
            sheet=self.sheet,
            root=self.root,
            cache=self.cache,
        )

    @property
    def mean(self) -> tuple[float, ...]:
        return self.schema.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.schema.std

    def load(self, rng: torch.Generator) -> Splits:
        table, source = self._table()
        rows = self.schema.encode(table, where=source)
        records = Records(rows.inputs, rows.labels)
        groups = None if rows.groups is None else number_groups(rows.groups)
        key = assignment_key(rng, self.split_key)
        given = {part: torch.from_numpy(chosen) for part, chosen in self._given(rows, source).items()}
        pool = given.get("train", torch.arange(len(records)))
        train, holdout, test = (
            pool[chosen]
            for chosen in divide(
                records.take(pool),
                None if groups is None else groups[pool],
                key,
                holdout=0.0 if "holdout" in given else self.holdout_fraction,
                test=0.0 if "test" in given else self.test_fraction,
            )
        )
        tested = given.get("test", test)
        return assemble(
            name=self.name or Path(str(self.path)).name.partition(".")[0],
            source=source,
            train=records.take(train),
            holdout=records.take(given.get("holdout", holdout)),
            test=records.take(tested),
            classes=self.labels.classes,
            task=self.labels.task,
            mean=self.mean,
            std=self.std,
            class_prior=self.class_prior,
            group_ids=None if groups is None else groups[train],
            holdout_group_ids=None if groups is None else groups[given.get("holdout", holdout)],
            test_group_ids=None if groups is None else groups[tested],
            group_word=self.group_word,
            subgroups={name: values[tested.numpy()] for name, values in rows.subgroups.items()},
            sensitive=self.schema.targets,
            key=key,
            raw=of_table(self.schema.columns),
        )

    def declare(self, train: int) -> Splits:
        """What `load` gives, with so many training records, all made up, each of a person of its own."""
        counts = parts_of(train, holdout=self.holdout_fraction, test=self.test_fraction)
        people = torch.arange(sum(counts))
        return declared(
            *counts,
            shape=(len(self.mean),),
            name=self.name or Path(str(self.path)).name.partition(".")[0],
            classes=self.labels.classes,
            task=self.labels.task,
            mean=self.mean,
            std=self.std,
            class_prior=self.class_prior,
            group_ids=people[:train] if self.group else None,
            holdout_group_ids=people[train : train + counts[1]] if self.group else None,
            group_word=self.group_word,
            sensitive=self.schema.targets,
        )

    def _table(self) -> tuple[pd.DataFrame, str]:
        """The table, its index saying where each row is found, and where it came from, in words."""
        if self.file is not None and (path := self.file.find()) is not None:
            return self._read(self.file, path), str(path)
        if self.published is None:
            assert self.file is not None
            raise self.file.missing()
        return self.published.read(root=self.root, cache=self.cache)

    def _read(self, file: TableFile, path: Path) -> pd.DataFrame:
        table = file.read(path)
        for column in (*self.schema.columns, *self.schema.target):
            if type(column) is Number and column.name in table:
                cells = emptied(table[column.name], column.missing)  # which is written as the file has it
                table[column.name] = file.with_points(cells)
        return table

    def _given(self, rows: Encoded, source: str) -> dict[str, np.ndarray]:
        """Positions of the rows in each part that the table itself names; refuses a divided person."""
        if rows.parts is None or self.split is None:
            return {}
        named = [part for part in PARTS if self.split.get(part) is not None]
        given = {part: np.flatnonzero(rows.parts == code) for code, part in enumerate(named)}
        for part, chosen in given.items():
            if len(chosen) == 0:
                raise DataError(
                    f"data.split.{part}={self.split[part]} occurs in no row of {source}: name a value of "
                    f"{self.split['column']} that does"
                )
            others = np.delete(np.arange(len(rows.parts)), chosen)
            if rows.groups is not None and (shared := set(rows.groups[chosen]) & set(rows.groups[others])):
                row = next(int(row) for row in chosen if rows.groups[row] in shared)
                raise DataError(
                    f"the {self.group} of row {row + 1} of {source} is in the {part} part and in another: "
                    f"keep all rows of a person in one part, or set data.split=null"
                )
        return given
