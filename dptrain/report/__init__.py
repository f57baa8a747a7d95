"""The documents of a run: report as JSON, Markdown, HTML and PDF, figures, statement and model card."""

from __future__ import annotations

from pathlib import Path

from dptrain.contracts import Report
from dptrain.storage import write_json, write_text


def write(report: Report, *, pdf: bool = False, card_measured: bool = False) -> list[Path]:
    """Write the report as report.html, report.md, figures/ and report.json into its folder, and what may be
    published of it as statement.json and model_card.md; returns their paths. With `pdf`, report.pdf too;
    with `card_measured` the model card tells what attacks measured.

    The numbers come last, so that a folder that holds report.json holds all the rest.
    """
    # Late, as the start of a run shows words on a console and writes no document.
    from dptrain.report.document import as_json, write_exposure
    from dptrain.report.figures import write_figures
    from dptrain.report.pages import as_html, as_markdown
    from dptrain.report.pdf import write_pdf

    folder = report.folder
    numbers, text, page = (folder / f"report.{kind}" for kind in ("json", "md", "html"))
    figures = write_figures(report, folder / "figures")
    write_text(as_markdown(report, figures), text)
    write_text(as_html(report), page)
    published = write_published(report, card_measured=card_measured)
    exposure = [folder / "exposure.csv"] if report.exposed else []
    for path in exposure:
        write_exposure(report, path)
    paper = [folder / "report.pdf"] if pdf else []
    for path in paper:
        write_pdf(as_html(report), path)
    write_json(as_json(report), numbers)
    return [numbers, page, *paper, text, *published, *exposure, *figures]


def write_published(report: Report, *, card_measured: bool = False) -> list[Path]:
    """Write what may be published of a report, its statement and its model card; returns their paths."""
    from dptrain.report.model_card import as_model_card
    from dptrain.report.statement import as_statement

    statement, card = report.folder / "statement.json", report.folder / "model_card.md"
    write_json(as_statement(report), statement)
    write_text(as_model_card(report, measured=card_measured), card)
    return [statement, card]
