"""Runs recorded in files of their own folder, one table for any program: no server, no library."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dptrain.redaction import redacted
from dptrain.storage import write_csv
from dptrain.tracking.names import flatten
from dptrain.tracking.null import NullRun

METRICS, PARAMS = "metrics.csv", "params.csv"
HEAD = ("step", "name", "value")  # of the metrics


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
            self._values = {(step, name): value for step, name, value in _whole_rows(self._metrics)}
            self._write_metrics()  # a row that was cut off must not go on as another one

    def params(self, values: Mapping[str, Any]) -> None:
        write_csv([("name", "value"), *flatten(redacted(values)).items()], self._params)

    def metric(self, name: str, value: float, step: int = 0) -> None:
        if math.isinf(value):
            return
        anew = not self._values or (str(step), name) in self._values
        self._values[str(step), name] = value
        if anew:
            self._write_metrics()
        else:
            with self._metrics.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow((step, name, value))

    def _write_metrics(self) -> None:
        write_csv([HEAD, *((*key, each) for key, each in self._values.items())], self._metrics)


def _whole_rows(path: Path) -> list[list[str]]:
    """The rows below the head, but for one that a full disk or a power cut left half written."""
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
    return [
        row
        for row in csv.reader(line.rstrip("\r") for line in lines)
        if len(row) == len(HEAD) and row != [*HEAD]
    ]
