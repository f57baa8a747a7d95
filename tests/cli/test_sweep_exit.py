"""With which code a sweep ends: the gravest of its jobs', and never 0 where an error was shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import order

from dptrain.cli import multirun
from dptrain.cli.start import BEYOND, BROKEN, CRASHED, FAILED
from dptrain.contracts import DptrainError
from dptrain.runs import folder as runs
from dptrain.sweep import state as sweeps
from dptrain.sweep import tracking as sweep_tracking


def ended(folder: Path) -> object:
    try:
        multirun.conclude(folder)
    except SystemExit as left:
        return left.code
    return 0


@pytest.mark.parametrize(
    ("codes", "gravest"),
    [
        ((BROKEN, BEYOND), BROKEN),
        ((FAILED, BROKEN, CRASHED), BROKEN),
        ((FAILED, BEYOND), BEYOND),
        ((CRASHED, FAILED), FAILED),
        ((CRASHED,), CRASHED),
    ],
)
def test_a_broken_guarantee_is_hidden_by_nothing(
    tmp_path: Path, codes: tuple[int, ...], gravest: int
) -> None:
    for number, code in enumerate(codes):
        sweeps.note_failure(tmp_path, order(f"seed={number}"), DptrainError("it failed"), code)
    assert ended(tmp_path) == gravest


def refused(*_: Any, **__: Any) -> None:
    raise DptrainError("it cannot be had")


def test_what_could_not_be_compared_or_recorded_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.start(tmp_path / "a", order("tracking=none"))
    assert ended(tmp_path) == 0
    with monkeypatch.context() as patch:
        patch.setattr(sweep_tracking, "conclude", refused)
        assert ended(tmp_path) == FAILED
    (tmp_path / "a" / runs.REPORT).write_text("{}")
    monkeypatch.setattr("dptrain.comparison.compare.compare", refused)
    assert ended(tmp_path) == FAILED
    assert capsys.readouterr().err.count("it cannot be had") == 2
    sweeps.note_failure(tmp_path, order("seed=3"), DptrainError("it failed"), BROKEN)
    assert ended(tmp_path) == BROKEN


def test_a_selection_that_cannot_be_made_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sweeps.changing(tmp_path) as state:
        state.selection = sweeps.Selection(trials=1)
    assert ended(tmp_path) == FAILED
    assert "1 of the trials are missing" in capsys.readouterr().err
