"""The tracker of runs that are recorded nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dptrain.contracts import Served


@dataclass(frozen=True)
class NoTracking:
    """Records nothing."""

    command: ClassVar[str] = ""  # there is nothing to look at

    @contextmanager
    def open(self, name: str, folder: Path, resume_id: str | None = None) -> Iterator[NullRun]:  # noqa: ARG002
        """A tracker that forgets what it is told."""
        yield NullRun()


class NullRun:
    """The tracker of a run that is not recorded."""

    run_id: str | None = None
    outcome = "FINISHED"

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metric(self, name: str, value: float, step: int = 0) -> None: ...

    def artifact(self, path: Path, folder: str | None = None) -> None: ...

    def table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None: ...

    def data(self, name: str, counts: Mapping[str, int]) -> None: ...

    def model(self, model: Served) -> None: ...
