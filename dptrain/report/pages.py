"""The whole report: as one HTML file that needs nothing else, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dptrain.contracts import Report
from dptrain.report import render, sections, sentences
from dptrain.report.blocks import Page
from dptrain.report.figures import figures as figures_of
from dptrain.report.leakage_words import readable


def as_html(report: Report) -> str:
    """The whole page, for the owner of the records: where there is a gallery, it shows some of them."""
    drawn = figures_of(report)
    report = replace(report, leakage=tuple(readable(line) for line in report.leakage))
    return render.page(
        Page(
            title=f"Privacy report: {report.title}",
            kind="Privacy report",
            name=report.title,
            images="data:",
            confidential="" if report.gallery is None else sentences.CONFIDENTIAL,
            sections=(
                sections.verdict(report),
                sections.numbers(report),
                *sections.guards(report),
                sections.figures(report, drawn),
                sections.statement(report),
                sections.limits(report),
                sections.reproduce(report),
            ),
        )
    )


def as_markdown(report: Report, figures: Sequence[Path] = ()) -> str:
    """The report for a data-protection officer; `figures` are linked relative to the report's folder."""
    return render.markdown(
        f"Privacy report: {report.title}",
        (
            sections.verdict(report),
            sections.numbers(report),
            *sections.guards(report),
            sections.statement(report),
            sections.limits(report),
            *([sections.figure_files(report, figures)] if figures else []),
            sections.reproduce(report),
        ),
    )
