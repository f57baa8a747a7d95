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
    """Records metrics and parameters as CSV in the folder of each run."""

    command: ClassVar[str] = ""  # the console names the folder already

    @contextmanager
    def open(self, name: str, folder: Path, resume_id: str | None = None) -> Iterator[NullRun]:  # noqa: ARG002
        """A tracker that writes into this folder; metrics that are there stay, as of a run that goes on."""
        yield CSVRun(folder)


class CSVRun(NullRun):
    """The tracker of one run: metrics.csv (step, name, value), as they come, and params.csv (name, value).

    A metric of a step that a resumed run trains again takes the place of the one before.
    """

    def __init__(self, folder: Path) -> None:
        self._params, self._metrics = folder / PARAMS, folder / METRICS
        self._values: dict[tuple[str, str], Any] = {}
        if self._metrics.exists():
            with self._metrics.open(newline="", encoding="utf-8") as file:
                self._values = {(step, name): value for step, name, value in list(csv.reader(file))[1:]}

    def params(self, values: Mapping[str, Any]) -> None:
        _write(self._params, [("name", "value"), *flatten(redacted(values)).items()])

    def metric(self, name: str, value: float, step: int = 0) -> None:
        if math.isinf(value):
            return
        anew = not self._values or (str(step), name) in self._values
        self._values[str(step), name] = value
        if anew:
            rows = [(*key, each) for key, each in self._values.items()]
            _write(self._metrics, [("step", "name", "value"), *rows])
        else:
            _write(self._metrics, [(step, name, value)], mode="a")


def _write(path: Path, rows: Sequence[Sequence[Any]], mode: str = "w") -> None:
    with path.open(mode, newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
