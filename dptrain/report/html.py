"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

from dptrain.contracts import Leakage, Report
from dptrain.evidence.verdict import BROKEN, LEAKS, NOT_SHOWN, RESISTED, TOO_WEAK, kind
from dptrain.report import sentences, tables, words
from dptrain.report.gallery import POLICY as PICTURES
from dptrain.report.gallery import gallery_table
from dptrain.report.leakage_words import spoken, told
from dptrain.report.tables import Table
from dptrain.report.vector import Drawing, drawings, style

# Whatever a browser might be talked into fetching or running, it refuses.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
SECTIONS = {
    "verdict": "The verdict",
    "numbers": "The numbers",
    "figures": "Figures",
    "statement": "The privacy statement in full",
    "limits": "Assumptions, and what is outside the guarantee",
    "reproduce": "How to reproduce",
}
TONES = {LEAKS: "leaks", BROKEN: "broken", RESISTED: "resisted"}
STATED = {
    LEAKS: "Leakage detected",
    BROKEN: "Broken",
    RESISTED: "Resisted",
    TOO_WEAK: "Cannot tell",
    NOT_SHOWN: "Not shown",
}


def as_html(report: Report) -> str:
    """The whole page, for the owner of the records: where there is a gallery, it shows some of them."""
    drawn = drawings(report)
    report = replace(report, leakage=tuple(spoken(line) for line in report.leakage))
    body = {
        "verdict": _verdict(report),
        "numbers": _numbers(report),
        "figures": _figures(report, drawn),
        "statement": _statement(report),
        "limits": _limits(report),
        "reproduce": _reproduce(report),
    }
    return page(
        title=f"Privacy report: {report.recipe}",
        policy=f"{POLICY}; {PICTURES}",
        style=style(),
        header=_header(report),
        sections=((name, SECTIONS[name], content) for name, content in body.items()),
    )


def page(
    *,
    title: str,
    policy: str,
    style: str,
    header: Iterable[str],
    sections: Iterable[tuple[str, str, Iterable[str]]],
) -> str:
    """A whole HTML file of these sections (name, heading, content), in need of nothing else."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#verdict">Skip to the verdict</a>',
            *header,
            '<main id="main">',
            *(line for each in sections for line in section(*each)),
            "</main>",
            "<footer><p>Written by dptrain. This page loads nothing and runs nothing.</p></footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def write_html(report: Report, path: Path) -> None:
    """Write the page, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_html(report), encoding="utf-8")


def rich(text: str) -> str:
    """A sentence as HTML, its marks turned into elements and everything else escaped.

    >>> rich("**<b>** is `safe`")
    '<strong>&lt;b&gt;</strong> is <code>safe</code>'
    """
    marked = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", _plain(text))
    marked = re.sub(r"(?<![*\w])\*(?=\S)([^*]+)(?<=\S)\*(?![*\w])", r"<em>\1</em>", marked)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", marked)


def _plain(text: str) -> str:
    """Escaped, each percent sign tied to its number."""
    return re.sub(r"(?<=\d) %", "\u00a0%", escape(text))


def table(content: Table, *, name: str, caption: str, style: str = "") -> Iterator[str]:
    """A table in a box of its own, which scrolls where the page is narrow."""
    yield f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
    yield f'<table class="{style}">' if style else "<table>"
    yield f'<caption id="{name}-caption"><span>{rich(caption)}</span></caption>'
    heads = (
        f'<th scope="col"{_numeric(content, column)}>{escape(head)}</th>' if head else "<td></td>"
        for column, head in enumerate(content.heads)
    )
    yield f"<thead><tr>{''.join(heads)}</tr></thead>"
    yield "<tbody>"
    for first, *rest in content.rows:
        cells = (
            f"<td{_numeric(content, column)}>{_cell(cell, content, column)}</td>"
            for column, cell in enumerate(rest, start=1)
        )
        yield f'<tr><th scope="row">{_broken(first)}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def _numeric(content: Table, column: int) -> str:
    return ' class="number"' if column in content.numeric else ""


def _cell(text: str, content: Table, column: int) -> str:
    """A number's interval on a line of its own; long words may break."""
    value, bracket, rest = text.partition(" [")
    if column in content.numeric and bracket:
        return f'{escape(value)} <span class="interval">[{escape(rest)}</span>'
    return _broken(text)


def _broken(text: str) -> str:
    """Escaped, with places where a long name may be broken."""
    return _plain(text).replace("_", "_<wbr>").replace("/", "/<wbr>")


def section(name: str, title: str, content: Iterable[str]) -> Iterator[str]:
    """A part of a page under its heading, which links and the keyboard can reach."""
    yield f'<section aria-labelledby="{name}">'
    yield f'<h2 id="{name}" tabindex="-1">{title}</h2>'
    yield from content
    yield "</section>"


def listed(items: Iterable[str]) -> Iterator[str]:
    """A list of sentences, in the marks that `rich` reads."""
    yield "<ul>"
    for item in items:
        yield f"<li>{rich(item)}</li>"
    yield "</ul>"


# ---------------------------------------------------------------------- the parts, top to bottom


def _header(report: Report) -> Iterator[str]:
    yield "<header>"
    yield f'<h1><span class="kind">Privacy report</span> {escape(report.recipe)}</h1>'
    if report.gallery is not None:
        yield f'<p class="confidential">{rich(sentences.CONFIDENTIAL)}</p>'
    links = (f'<li><a href="#{name}">{name.capitalize()}</a></li>' for name in SECTIONS)
    yield f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'
    yield "</header>"


def _verdict(report: Report) -> Iterator[str]:
    statement = report.guarantee
    if statement.void:
        yield f'<p class="alarm" role="note">{rich(sentences.void(statement))}</p>'
    yield f'<p class="lead">{rich(sentences.short(report))}</p>'
    yield from _key_figures(report)
    yield "<h3>What is promised</h3>"
    yield f"<p>{rich(sentences.promise(statement))}</p>"
    yield "<h3>To whom</h3>"
    yield f"<p>{rich(sentences.beneficiaries(report))}</p>"
    yield "<h3>What the attacks did</h3>"
    yield f"<p>{rich(sentences.attacks(report))}</p>"
    if report.leakage:
        yield '<ul class="told">'
        yield from (_told(line, void=statement.void) for line in sentences.main_lines(report))
        yield "</ul>"
    if report.not_run:
        yield '<ul class="told">'
        for sentence in sentences.not_run(report):
            yield f'<li><span class="badge unknown">Not run</span> <span>{escape(sentence)}</span></li>'
        yield "</ul>"
    yield "<h3>What the model is worth</h3>"
    yield f"<p>{rich(sentences.worth(report))}</p>"
    yield "<h3>What to do next</h3>"
    yield from listed(sentences.next_steps(report))


def _told(line: Leakage, *, void: bool) -> str:
    found = kind(line.verdict)
    badge = f'<span class="badge {TONES.get(found, "unknown")}">{STATED.get(found, "No control")}</span>'
    return f"<li>{badge} <span>{rich(told(line, void=void))}</span></li>"


def _key_figures(report: Report) -> Iterator[str]:
    """Three numbers that sum the run up."""
    statement, accuracy = report.guarantee, report.utility.accuracy
    if sentences.holds(statement):
        proved = (
            f"ε = {words.epsilon(statement.epsilon)}",
            f"δ = {words.delta(statement.delta)}, per {statement.unit}",
        )
        test = words.percent_at_most(statement.tpr_at_fpr["0.01"])
        found = test, "of the members: the most that any test finds, at 1 % false alarms"
    else:
        proved = "void" if statement.void else "none", "no guarantee holds"
        found = "no limit", "to what a membership test may find"
    worth = words.percent(accuracy.value), "of the test records are classified correctly"
    yield '<dl class="key">'
    for name, (value, note) in {"Guarantee": proved, "Membership": found, "Accuracy": worth}.items():
        yield f"<div><dt>{name}</dt><dd><b>{_plain(value)}</b> {_plain(note)}</dd></div>"
    yield "</dl>"


def _numbers(report: Report) -> Iterator[str]:
    yield "<h3>Utility</h3>"
    yield from table(
        tables.utility(report), name="utility-table", caption="What the model is able to do.", style="short"
    )
    yield f"<p>{rich(sentences.data(report))}</p>"
    if not report.leakage:
        return
    yield "<h3>Leakage</h3>"
    yield from table(
        tables.leakage(report),
        name="leakage-table",
        caption="What each attack achieved, beside its floor, its control and its bound.",
        style="wide",
    )
    yield f'<p class="note">{rich(sentences.legend(report))}</p>'
    told = [(line, sentences.remarks(line)) for line in sentences.main_lines(report)]
    if any(remarks for _, remarks in told):
        yield "<details><summary>How each number came about</summary>"
        yield from listed(
            f"**{line.attack}**, {line.metric}: {remarks}." for line, remarks in told if remarks
        )
        yield "</details>"
    compared = tables.output_defences(report)
    if compared is not None:
        yield "<h3>Output defences</h3>"
        yield from table(compared, name="defences-table", caption=sentences.DEFENDED, style="wide")
    if report.exposed:
        yield f'<p><a href="exposure.csv">exposure.csv</a> {rich(sentences.exposure(report))}</p>'


def _figures(report: Report, drawn: Iterable[Drawing]) -> Iterator[str]:
    yield '<div class="gallery">'
    for drawing in drawn:
        yield "<figure>"
        yield f"<figcaption><b>{_plain(drawing.title)}</b> {_plain(drawing.caption)}</figcaption>"
        yield drawing.svg()
        yield "</figure>"
    yield "</div>"
    if report.gallery is not None:
        yield '<div class="records">'
        yield "<h3>What was inverted of each class</h3>"
        yield f'<p class="warning">{rich(sentences.INVERSIONS)}</p>'
        yield from gallery_table(report.gallery)
        link = '<a href="figures/class_inversion.png">class_inversion.png</a>'
        yield f'<p class="note">The same as a figure: {link}.</p>'
        yield "</div>"


def _statement(report: Report) -> Iterator[str]:
    yield '<p>The same for other programs: <a href="statement.json">statement.json</a>.</p>'
    yield from table(
        tables.statement(report.guarantee), name="statement-table", caption="Every term of the guarantee."
    )


def _limits(report: Report) -> Iterator[str]:
    yield "<h3>Assumptions</h3>"
    yield from listed(sentences.assumptions(report.guarantee))
    yield "<h3>Outside the guarantee</h3>"
    yield from listed(sentences.outside(report.guarantee))


def _reproduce(report: Report) -> Iterator[str]:
    yield f'<pre tabindex="0" aria-label="Command"><code>{escape(report.reproduce)}</code></pre>'
    yield f"<p>{rich(sentences.REPETITION)} {rich(sentences.seconds(report))}</p>"
    yield '<p>Every number of this report is in <a href="report.json">report.json</a>.</p>'
