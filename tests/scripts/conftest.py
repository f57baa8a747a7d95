"""What tests of scripts share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import support


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """The module of runs, which scripts that make tables import by name."""
    return support.script("measured")


@pytest.fixture
def started(measured: ModuleType, monkeypatch: pytest.MonkeyPatch) -> support.Started:
    """Keeps a report in place of each run, by its number; gives the words of all that were asked for."""

    def keeping(report_of: Callable[[int], dict[str, Any]]) -> list[tuple[str, ...]]:
        asked: list[tuple[str, ...]] = []

        def start(words: tuple[str, ...], folder: Path) -> None:
            asked.append(words)
            made = folder / f"run{len(asked)}"
            made.mkdir(parents=True)
            (made / "run.json").write_text(json.dumps({"overrides": list(words)}))
            (made / "report.json").write_text(json.dumps(report_of(len(asked))))

        monkeypatch.setattr(measured, "start", start)
        return asked

    return keeping
