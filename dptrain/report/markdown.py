"""The report as Markdown: the verdict in plain words first, then everything it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dptrain.contracts import Report, Statement
from dptrain.report import sentences, tables
from dptrain.report.leakage_words import named, told
from dptrain.report.tables import Table

CONFIDENTIAL = "class_inversion.png"


def as_markdown(report: Report, figures: Sequence[Path] = ()) -> str:
    """The report for a data-protection officer; `figures` are linked relative to the report's folder."""
    return "\n".join(
        [
            f"# Privacy report: {report.recipe}",
            "",
            *_verdict(report),
            *_numbers(report),
            *_statement(report.guarantee),
            *_limits(report.guarantee),
            *_figures(report, figures),
            *_reproduce(report),
        ]
    )


def write_markdown(report: Report, path: Path, figures: Sequence[Path] = ()) -> None:
    """Write the report, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(report, figures), encoding="utf-8")


def table(content: Table) -> Iterator[str]:
    """The lines of a table, and an empty one; columns of numbers are aligned to the right."""
    yield _row(content.heads)
    yield _row(["---:" if column in content.numeric else "---" for column in range(len(content.heads))])
    for row in content.rows:
        yield _row(row)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _verdict(report: Report) -> Iterator[str]:
    statement = report.guarantee
    yield "## The verdict"
    yield ""
    if statement.void:
        yield f"> {sentences.void(statement)}"
        yield ""
    yield f"**In short.** {sentences.short(report)}"
    yield ""
    yield f"**What is promised.** {sentences.promise(statement)}"
    yield ""
    yield f"**To whom.** {sentences.beneficiaries(report)}"
    yield ""
    yield f"**What the attacks did.** {sentences.attacks(report)}"
    yield ""
    for line in sentences.main_lines(report):
        yield f"- {told(replace(line, metric=named(line)), void=statement.void)}"
    for sentence in sentences.not_run(report):
        yield f"- **Not run.** {sentence}"
    if report.leakage or report.not_run:
        yield ""
    yield f"**What the model is worth.** {sentences.worth(report)}"
    yield ""
    yield "**What to do next.**"
    yield ""
    for step in sentences.next_steps(report):
        yield f"- {step}"
    yield ""


def _numbers(report: Report) -> Iterator[str]:
    yield "## The numbers"
    yield ""
    yield "### Utility"
    yield ""
    yield from table(tables.utility(report))
    yield sentences.data(report)
    yield ""
    if not report.leakage:
        return
    yield "### Leakage"
    yield ""
    yield from table(tables.leakage(report))
    yield sentences.legend(report)
    yield ""
    for line in sentences.main_lines(report):
        remarks = sentences.remarks(line)
        if remarks:
            yield f"- {line.attack}, {named(line)}: {remarks}."
    yield ""
    compared = tables.output_defences(report)
    if compared is not None:
        yield "### Output defences"
        yield ""
        yield from table(compared)
        yield sentences.DEFENDED
        yield ""
    if report.exposed:
        yield f"[exposure.csv](exposure.csv) {sentences.exposure(report)}"
        yield ""


def _statement(statement: Statement) -> Iterator[str]:
    yield "## The privacy statement in full"
    yield ""
    yield from table(tables.statement(statement))


def _limits(statement: Statement) -> Iterator[str]:
    yield "## Assumptions, and what is outside the guarantee"
    yield ""
    for assumption in sentences.assumptions(statement):
        yield f"- {assumption}"
    yield ""
    yield "Outside the guarantee:"
    yield ""
    for item in sentences.outside(statement):
        yield f"- {item}"
    yield ""


def _figures(report: Report, figures: Sequence[Path]) -> Iterator[str]:
    if not figures:
        return
    yield "## Figures"
    yield ""
    for path in figures:
        link = path.relative_to(report.folder).as_posix()
        if path.name == CONFIDENTIAL:
            yield f"[{path.name}]({link}) {sentences.LINKED}"
        else:
            caption = sentences.CAPTIONS[path.stem]
            yield f"![{caption}]({link})"
            yield ""
            yield f"*{caption}*"
        yield ""


def _reproduce(report: Report) -> Iterator[str]:
    yield "## How to reproduce"
    yield ""
    yield "```bash"
    yield report.reproduce
    yield "```"
    yield ""
    yield sentences.REPETITION
    yield f"{sentences.seconds(report)} Every number of this report is in [report.json](report.json)."
    yield ""
