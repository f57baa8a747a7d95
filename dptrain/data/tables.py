"""Files of cells: CSV, Parquet and Excel, as they are written, before anything is made of what they hold."""

from __future__ import annotations

import codecs
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dptrain.contracts import ConfigError, DataError
from dptrain.data.columns import as_text
from dptrain.data.files import cache_folder, local_folders, missing

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".xlsx")
TYPED = (".parquet", ".xlsx")  # whose numbers and days are no text


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """Where a table is, and how it is written; raises ConfigError.

    `path` is looked for in `root`, in the folder DPTRAIN_DATA, as it stands, and in `cache`.
    """

    path: str
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."
    sheet: str | None = None  # of a workbook; None: its first
    root: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.path.endswith(SUFFIXES):
            raise ConfigError(f"data.path={self.path} must end in {', '.join(SUFFIXES)}; convert the table")
        try:
            "a".encode(self.encoding)
        except (LookupError, ValueError) as error:  # of codecs, those that encode no text among them
            raise ConfigError(
                f"data.encoding={self.encoding} is no encoding; e.g. utf-8 or latin-1"
            ) from error
        for key in ("delimiter", "decimal"):
            if len(getattr(self, key)) != 1:
                raise ConfigError(f"data.{key}={getattr(self, key)!r} must be one character; e.g. ';' or ','")
        if self.delimiter == self.decimal:
            raise ConfigError(f"data.delimiter and data.decimal are both {self.decimal!r}; one must differ")

    def find(self) -> Path | None:
        """The first place that it is in, or None."""
        folders = [*local_folders(self.root), Path(), cache_folder(self.cache)]
        places = (folder / Path(self.path).expanduser() for folder in folders)
        return next((path for path in places if path.is_file()), None)

    def missing(self) -> DataError:
        """The error that says where it was looked for."""
        return missing(
            self.path, url="any download", root=self.root, cache=self.cache, reason="none is known"
        )

    def with_points(self, cells: pd.Series) -> pd.Series:
        """Cells of numbers, with points for the decimal sign of a CSV."""
        if self.decimal == "." or self.path.endswith(TYPED):
            return cells
        # A point is no part of such a number, so that "1.234" is read as none, and not as a thousandth of it.
        return cells.str.translate(str.maketrans(f"{self.decimal}.", f".{self.decimal}"))

    def read(self, path: Path) -> pd.DataFrame:
        """The cells of a CSV file, as text, or of a Parquet file or workbook, as they are stored.

        The index tells where a row is found: the line of a CSV file that it starts on, the row of a sheet.
        Raises DataError if it cannot be read.
        """
        try:
            if path.suffix == ".parquet":
                table = pd.read_parquet(path)
                table.index = pd.RangeIndex(1, len(table) + 1, name="row")
            elif path.suffix == ".xlsx":
                table = _read_workbook(path, self.sheet)
            else:
                table = _read_csv(path, self.encoding, self.delimiter)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # of many libraries
            raise DataError(
                f"{path} cannot be read ({_reason(error)}): save it as CSV (one header line, in "
                f"data.encoding={self.encoding} with data.delimiter={self.delimiter!r}) or as Parquet"
            ) from None
        table.columns = [as_text(name) for name in table.columns]
        if table.empty:
            raise DataError(f"{path} holds no rows: give it at least one below the header")
        return table


class Surplus(ValueError):
    """More cells in a row than names in the header."""


def _reason(error: Exception) -> str:
    """Why a table cannot be read, and where; without the reader's own text, which may quote cells."""
    if isinstance(error, Surplus):
        return str(error)
    line = re.search(r"\b(?:line|row)\W{0,2}(\d+)|position (\d+)", str(error))
    return f"{type(error).__name__}{f', near {line[0]}' if line else ''}"


def _read_workbook(path: Path, sheet: str | None) -> pd.DataFrame:
    """The cells of a sheet as they are stored: text as text, so that leading zeros stay."""
    try:
        import openpyxl  # noqa: F401
    except ImportError as error:
        raise DataError(f'{path} is a workbook: pip install "dptrain[excel]", or save it as CSV') from error
    with warnings.catch_warnings(action="ignore"), pd.ExcelFile(path, engine="openpyxl") as book:
        # Warnings may quote cells.
        if sheet is not None and sheet not in book.sheet_names:
            raise DataError(f"data.sheet={sheet} is no sheet of {path}: name one that is, or null, the first")
        table = book.parse(sheet or 0, dtype=object, keep_default_na=False, na_values=[""])
    table.index = pd.RangeIndex(2, len(table) + 2, name="row")
    return table


def _read_csv(path: Path, encoding: str, delimiter: str) -> pd.DataFrame:
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    table = pd.read_csv(
        path, dtype=str, keep_default_na=False, na_values=[""], skip_blank_lines=False, encoding=encoding,
        sep=delimiter,
    )  # fmt: skip
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes a surplus first column for names of rows
        raise Surplus("rows have more cells than the header has names")
    # A quoted cell may hold line ends, so that a row takes several lines.
    ends = sum((table[name].str.count("\n").fillna(0) for name in table), start=np.zeros(len(table)))
    taken = 1 + np.asarray(ends, dtype=np.int64)
    table.index = pd.Index(2 + np.cumsum(taken) - taken, name="line")
    blank = table.isna().all(axis=1).to_numpy()
    filled = np.flatnonzero(~blank)
    return table.iloc[: filled[-1] + 1 if len(filled) else 0]  # blank lines at the end are no rows
