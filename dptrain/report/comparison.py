"""The comparison of many runs as one HTML file in the style of a run's report, that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from dptrain.report import comparison_tables as tables
from dptrain.report import comparison_words as said
from dptrain.report import words
from dptrain.report.comparison_figures import frontier, leakage, utility
from dptrain.report.html import POLICY, listed, page, rich, table
from dptrain.report.points import VOID, Comparison
from dptrain.report.tables import Table
from dptrain.report.vector import Drawing, style

SECTIONS = {
    "verdict": ("Verdict", "Which ε"),
    "utility": ("Utility", "What privacy costs"),
    "leakage": ("Leakage", "What leaks at each ε"),
    "frontier": ("Frontier", "Accuracy against what is proved"),
    "guarantees": ("Guarantees", "The guarantee of each point"),
    "search": ("Search", "What the search itself cost"),
    "method": ("Method", "How to read these numbers"),
    "reproduce": ("Reproduce", "How to reproduce"),
}


def as_html(comparison: Comparison) -> str:
    """The whole page; it shows no training record."""
    body = {
        "verdict": _verdict(comparison),
        "utility": _utility(comparison),
        "leakage": _leakage(comparison),
        "frontier": _frontier(comparison),
        "guarantees": _guarantees(comparison),
        "search": _search(comparison),
        "method": listed(said.methods(comparison)),
        "reproduce": _reproduce(comparison),
    }
    return page(
        title=f"Comparison: {comparison.title}",
        policy=POLICY,
        style=f"{style()}{own_style()}",
        header=_header(comparison),
        sections=((name, SECTIONS[name][1], content) for name, content in body.items()),
    )


def _header(comparison: Comparison) -> Iterator[str]:
    yield "<header>"
    yield f'<h1><span class="kind">Comparison of runs</span> {escape(comparison.title)}</h1>'
    links = (f'<li><a href="#{name}">{short}</a></li>' for name, (short, _) in SECTIONS.items())
    yield f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'
    yield "</header>"


def write_html(comparison: Comparison, path: Path) -> None:
    """Write the page, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_html(comparison), encoding="utf-8")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values; an infinite number, such as no epsilon, is None."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(comparison)), parse_constant=lambda _: None)
    return plain


def own_style() -> str:
    """What this page's figures need beside the house's style sheet."""
    return files("dptrain.report").joinpath("comparison.css").read_text(encoding="utf-8")


def _figure(drawing: Drawing) -> Iterator[str]:
    yield "<figure>"
    caption = f" {rich(drawing.caption)}" if drawing.caption else ""
    yield f"<figcaption><b>{rich(drawing.title)}</b>{caption}</figcaption>"
    yield drawing.svg()
    yield "</figure>"


def _table(content: Table, name: str, caption: str, *, wide: bool = True) -> Iterator[str]:
    yield from table(content, name=name, caption=caption, style="wide" if wide else "short")


# ---------------------------------------------------------------------- the parts, top to bottom


def _verdict(comparison: Comparison) -> Iterator[str]:
    answer = comparison.answer
    yield from (f'<p class="warning" role="note">{rich(sentence)}</p>' for sentence in said.void(comparison))
    tone = "" if answer is None or answer.met else " none"
    yield f'<p class="lead{tone}">{rich(said.lead(comparison))}</p>'
    yield from _key_figures(comparison)
    for sentence in said.overview(comparison):
        yield f"<p>{rich(sentence)}</p>"
    if answer is not None:
        yield from _table(
            tables.answer(comparison, answer),
            "limits-table",
            "Each limit at each point, and the number that was held against it.",
            wide=len(answer.limits) > 2,
        )
        yield f'<p class="note">{rich(said.CONSERVATIVE)}</p>'


def _key_figures(comparison: Comparison) -> Iterator[str]:
    """Three numbers of the point that was chosen; nothing where none was."""
    cheapest = None if comparison.answer is None else comparison.answer.cheapest
    chosen = next((point for point in comparison.points if point.label == cheapest), None)
    if chosen is None:
        return
    value, _, around = said.ends(chosen.accuracy).partition(" [")
    unit = f"δ = {words.delta(chosen.delta)}, per {comparison.unit}; each model alone"
    cards = {
        "Guarantee": (f"ε = {said.epsilon(chosen)}", unit),
        "Membership": (said.membership(chosen), "the most that any test finds, at 1 % false alarms"),
        "Accuracy": (value, f"[{around} {chosen.accuracy.method}"),
    }
    yield '<dl class="key">'
    for name, (number, note) in cards.items():
        yield f"<div><dt>{name}</dt><dd><b>{rich(number)}</b> {rich(note)}</dd></div>"
    yield "</dl>"


def _utility(comparison: Comparison) -> Iterator[str]:
    if any(point.status != VOID for point in comparison.points):
        yield from _figure(utility(comparison))
    yield from _table(tables.utility(comparison), "utility-table", "What each point's models are able to do.")
    if comparison.neighbours:
        yield from _table(
            tables.neighbours(comparison),
            "neighbours-table",
            "Accuracy of neighbouring points, compared seed by seed.",
            wide=False,
        )
        yield f'<p class="note">{rich(said.UNADJUSTED)}</p>'


def _leakage(comparison: Comparison) -> Iterator[str]:
    if not any(point.lines for point in comparison.points):
        yield "<p>No attack was run, so nothing was measured.</p>"
        return
    yield f"<p>{rich(said.NO_CEILING)}</p>"
    yield '<div class="gallery">'
    for drawing in leakage(comparison):
        yield from _figure(drawing)
    yield "</div>"
    yield from _table(
        tables.leakage(comparison),
        "leakage-table",
        "What each attack achieved at each point, beside its floor, its control and its bound.",
    )


def _frontier(comparison: Comparison) -> Iterator[str]:
    drawing = frontier(comparison)
    if drawing is None:
        yield "<p>No point has a guarantee that holds, so there is no frontier.</p>"
        return
    yield from _figure(drawing)
    yield '<p class="note">Drawn by the centres: where intervals overlap, which point is better is open.</p>'


def _guarantees(comparison: Comparison) -> Iterator[str]:
    yield from _table(tables.guarantees(comparison), "guarantee-table", "What is proved of each model alone.")
    yield "<details><summary>Each guarantee in a sentence</summary>"
    yield from listed(f"**{point.label}.** {point.sentence}" for point in comparison.points)
    yield "</details>"


def _search(comparison: Comparison) -> Iterator[str]:
    yield '<dl class="key cost">'
    for name, cost, who in tables.search(comparison).rows:
        yield f"<div><dt>{rich(name.capitalize())}</dt><dd><b>{rich(cost)}</b> {rich(who)}</dd></div>"
    yield "</dl>"
    if comparison.cost.left_out:
        yield "<p>Not in the composition:</p>"
        yield from listed(comparison.cost.left_out)


def _reproduce(comparison: Comparison) -> Iterator[str]:
    yield "<p>This page:</p>"
    yield from _command(comparison.command, "Command of this page")
    commands = list(dict.fromkeys(each for point in comparison.points for each in point.reproduce if each))
    if commands:
        yield f"<details><summary>The {len(commands)} commands of its runs</summary>"
        yield from _command("\n".join(commands), "Commands of the runs")
        yield "</details>"
    if comparison.missing:
        yield "<h3>Missing runs</h3>"
        yield from _table(tables.missing(comparison), "missing-table", "Asked for and not shown.", wide=False)


def _command(text: str, name: str) -> Iterator[str]:
    yield f'<pre tabindex="0" aria-label="{name}"><code>{escape(text)}</code></pre>'
