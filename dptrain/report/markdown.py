"""The report as Markdown: the verdict in plain words first, then everything it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dptrain.contracts import Report
from dptrain.report import render, sections
from dptrain.storage import write_text


def as_markdown(report: Report, figures: Sequence[Path] = ()) -> str:
    """The report for a data-protection officer; `figures` are linked relative to the report's folder."""
    return render.markdown(
        f"Privacy report: {report.recipe}",
        (
            sections.verdict(report),
            sections.numbers(report),
            sections.statement(report),
            sections.limits(report),
            *([sections.figure_files(report, figures)] if figures else []),
            sections.reproduce(report),
        ),
    )


def write_markdown(report: Report, path: Path, figures: Sequence[Path] = ()) -> None:
    """Write the report, in UTF-8."""
    write_text(as_markdown(report, figures), path)
