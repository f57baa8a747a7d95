"""Runs recorded in files of their own folder, one table for any program: no server, no library."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dptrain.redaction import redacted
from dptrain.tracking.names import flatten
from dptrain.tracking.null import NullRun

METRICS, PARAMS = "metrics.csv", "params.csv"


@dataclass(frozen=True)
class CSV:
    """Records metrics and parameters as CSV in the run folder; those of a sweep stand side by side in its."""

    command: ClassVar[str] = ""  # the console names the folder already

    @contextmanager
    def open(self, name: str, folder: Path, resume_id: str | None = None) -> Iterator[NullRun]:  # noqa: ARG002
        """A tracker that writes below this folder; what is there stays, as of a run that goes on."""
        yield CSVRun(folder)


class CSVRun(NullRun):
    """The tracker of one run: metrics.csv (step, name, value), as they come, and params.csv (name, value)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def params(self, values: Mapping[str, Any]) -> None:
        self._append(PARAMS, ("name", "value"), list(flatten(redacted(values)).items()))

    def metric(self, name: str, value: float, step: int = 0) -> None:
        if not math.isinf(value):
            self._append(METRICS, ("step", "name", "value"), [(step, name, value)])

    def _append(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path = self._folder / name
        begun = path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows if begun else [header, *rows])
