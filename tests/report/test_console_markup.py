"""Names and paths that read like Rich's markup, or like one of its emoji, are printed as they are."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import rich.console

from dptrain.contracts import Briefing, Report
from dptrain.report.console import Console

ODD = "[/a] [red] :smile: b"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_path_that_reads_like_markup_is_told_as_it_is(
    briefing: Briefing, report: Report, tmp_path: Path, terminal: bool
) -> None:
    folder = tmp_path / "[" / ODD
    calls = (
        lambda console: console.report(dataclasses.replace(report, folder=folder), f"mlflow ui {ODD}"),
        lambda console: console.briefing(dataclasses.replace(briefing, title=ODD, data=ODD, folder=folder)),
        lambda console: console.audit(ODD, folder, [ODD], folder, [ODD]),
        lambda console: console.verified(folder, [(ODD, True, ODD)]),
        lambda console: console.verified(folder, [(ODD, False, ODD)]),
        lambda console: console.there_already(folder),
        lambda console: console.note(ODD, ODD),
        lambda console: console.page(folder),
    )
    for call in calls:
        out = io.StringIO()
        call(Console(rich.console.Console(file=out, width=200, force_terminal=terminal, color_system=None)))
        assert ODD in out.getvalue()
    out = io.StringIO()
    console = Console(rich.console.Console(file=out, width=200, force_terminal=terminal, color_system=None))
    with console.training(ODD) as reach:
        reach(done=1, total=2, epsilon=0.5)
    with console.stage(ODD):
        pass
    assert ODD in out.getvalue()
