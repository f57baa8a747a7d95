"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dptrain.contracts import Report
from dptrain.report import render, sections, sentences
from dptrain.report.blocks import Page
from dptrain.report.figures import figures
from dptrain.report.leakage_words import readable
from dptrain.storage import write_text


def as_html(report: Report) -> str:
    """The whole page, for the owner of the records: where there is a gallery, it shows some of them."""
    drawn = figures(report)
    report = replace(report, leakage=tuple(readable(line) for line in report.leakage))
    return render.page(
        Page(
            title=f"Privacy report: {report.recipe}",
            kind="Privacy report",
            name=report.recipe,
            images="data:",
            confidential="" if report.gallery is None else sentences.CONFIDENTIAL,
            sections=(
                sections.verdict(report),
                sections.numbers(report),
                sections.figures(report, drawn),
                sections.statement(report),
                sections.limits(report),
                sections.reproduce(report),
            ),
        )
    )


def write_html(report: Report, path: Path) -> None:
    """Write the page, in UTF-8."""
    write_text(as_html(report), path)
