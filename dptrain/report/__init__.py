"""What the person sees: the console, and the report as JSON, Markdown and figures."""

from __future__ import annotations

from pathlib import Path

from dptrain.contracts import Report
from dptrain.report.document import write_json
from dptrain.report.exposure import write_exposure
from dptrain.report.figures import write_figures
from dptrain.report.markdown import write_markdown


def write(report: Report) -> list[Path]:
    """Write report.md, figures/ and report.json into the report's folder; returns their paths.

    The numbers come last, so that a folder that holds report.json holds all the rest.
    """
    numbers, text = report.folder / "report.json", report.folder / "report.md"
    figures = write_figures(report, report.folder / "figures")
    write_markdown(report, text, figures)
    exposure = [report.folder / "exposure.csv"] if report.exposed else []
    for path in exposure:
        write_exposure(report, path)
    write_json(report, numbers)
    return [numbers, text, *exposure, *figures]
