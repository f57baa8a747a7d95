"""The comparison of many runs as one HTML file in the style of a run's report, that needs nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from dptrain.report import render, words
from dptrain.report.blocks import (
    Block,
    Bullets,
    Cards,
    Code,
    Figures,
    Heading,
    Page,
    Paragraph,
    Section,
    Table,
    Tabular,
    bullets,
)
from dptrain.report.comparison import guards, sentences, tables
from dptrain.report.comparison.figures import frontier, leakage, utility
from dptrain.report.comparison.points import Comparison
from dptrain.report.guarding import NO_BOUND

TITLES = {
    "verdict": "Which ε",
    "utility": "What privacy costs",
    "leakage": "What leaks at each ε",
    "guards": "What guards buy, and what they cost",
    "frontier": "Utility against what is proved",
    "guarantees": "The guarantee of each point",
    "search": "What the search itself cost",
    "method": "How to read these numbers",
    "reproduce": "How to reproduce",
}


def as_html(comparison: Comparison) -> str:
    """The whole page; it shows no training record."""
    return render.page(
        Page(
            title=f"Comparison: {comparison.title}",
            kind="Comparison of runs",
            name=comparison.title,
            styles=("page", "comparison"),
            sections=(
                _verdict(comparison),
                _utility(comparison),
                _leakage(comparison),
                *_guards(comparison),
                _frontier(comparison),
                _guarantees(comparison),
                _search(comparison),
                _section("method", bullets(*sentences.methods(comparison))),
                _reproduce(comparison),
            ),
        )
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values; an infinite number, such as no epsilon, is None."""
    return json.loads(json.dumps(asdict(comparison)), parse_constant=lambda _: None)


# ---------------------------------------------------------------------- the sections, top to bottom


def _verdict(comparison: Comparison) -> Section:
    answer = comparison.answer
    lead = "lead" if answer is None or answer.met else "lead none"
    blocks: list[Block] = [
        *(Paragraph(text, style="warning") for text in sentences.void(comparison)),
        Paragraph(sentences.lead(comparison), style=lead),
        *_key_figures(comparison),
        *(Paragraph(text) for text in sentences.overview(comparison)),
    ]
    if answer is not None:
        caption = "Each limit at each point, and the number that was held against it."
        table = tables.answer(comparison, answer)
        blocks += [
            _table(table, "limits-table", caption, wide=len(answer.limits) > 2),
            Paragraph(sentences.CONSERVATIVE, style="note"),
        ]
    return _section("verdict", *blocks)


def _key_figures(comparison: Comparison) -> list[Block]:
    """Three numbers of the point that was chosen; nothing where none was."""
    cheapest = None if comparison.answer is None else comparison.answer.cheapest
    chosen = next((point for point in comparison.points if point.label == cheapest), None)
    if chosen is None:
        return []
    value, _, around = sentences.ends(chosen.accuracy).partition(" [")
    unit = f"δ = {words.delta(chosen.delta)}, per {comparison.unit}; each model alone"
    cards = (
        ("Guarantee", f"ε = {sentences.epsilon(chosen)}", unit),
        (
            "Membership",
            sentences.membership(chosen),
            "the most that any test identifies, at a 1 % false-positive rate",
        ),
        (words.sentence_case(words.named(comparison.metric)), value, f"[{around} {chosen.accuracy.method}"),
    )
    return [Cards(cards)]


def _utility(comparison: Comparison) -> Section:
    blocks: list[Block] = []
    if (figure := utility(comparison)) is not None:
        blocks.append(Figures((figure,), single=True))
    caption = "What each point's models are able to do."
    blocks.append(_table(tables.utility(comparison), "utility-table", caption))
    if comparison.neighbours:
        metric = words.sentence_case(words.named(comparison.metric))
        caption = f"{metric} of neighbouring points, compared seed by seed."
        blocks += [
            _table(tables.neighbours(comparison), "neighbours-table", caption, wide=False),
            Paragraph(sentences.UNADJUSTED, style="note"),
        ]
    return _section("utility", *blocks)


def _leakage(comparison: Comparison) -> Section:
    if not any(point.lines for point in comparison.points):
        return _section("leakage", Paragraph("No attack was run, so nothing was measured."))
    caption = "What each attack achieved at each point, beside its baseline, its control and its bound."
    return _section(
        "leakage",
        Paragraph(sentences.NO_CEILING),
        Figures(tuple(leakage(comparison))),
        _table(tables.leakage(comparison), "leakage-table", caption),
    )


def _guards(comparison: Comparison) -> tuple[Section, ...]:
    """Of services that were attacked."""
    if not guards.shown(comparison):
        return ()
    bought = "What each attack achieves through each service, beside one without guards."
    paid = "What the guards do to normal traffic, all seeds together, and how long an answer takes."
    drawn = guards.figure(comparison)
    section = _section(
        "guards",
        Paragraph(NO_BOUND),
        *([] if drawn is None else [Figures((drawn,), single=True)]),
        _table(guards.buys(comparison), "guards-table", bought),
        _table(guards.costs(comparison), "guards-costs-table", paid),
    )
    return (section,)


def _frontier(comparison: Comparison) -> Section:
    figure = frontier(comparison)
    if figure is None:
        return _section(
            "frontier", Paragraph("No point has a guarantee that holds, so there is no frontier.")
        )
    note = "Drawn by the centres: where intervals overlap, which point is better is open."
    return _section("frontier", Figures((figure,), single=True), Paragraph(note, style="note"))


def _guarantees(comparison: Comparison) -> Section:
    items = tuple((f"{point.label}.", f" {point.sentence}") for point in comparison.points)
    return _section(
        "guarantees",
        _table(tables.guarantees(comparison), "guarantee-table", "What is proved of each model alone."),
        Bullets(items, summary="Each guarantee in a sentence"),
    )


def _search(comparison: Comparison) -> Section:
    rows = tables.search(comparison).rows
    blocks: list[Block] = [
        Cards(tuple((name.capitalize(), cost, who) for name, cost, who in rows), style="cost")
    ]
    if comparison.cost.left_out:
        blocks += [Paragraph("Not in the composition:"), bullets(*comparison.cost.left_out)]
    return _section("search", *blocks)


def _reproduce(comparison: Comparison) -> Section:
    blocks: list[Block] = [Paragraph("This page:"), Code(comparison.command, "Command of this page")]
    commands = list(dict.fromkeys(each for point in comparison.points for each in point.reproduce if each))
    if commands:
        summary = f"The {len(commands)} commands of its runs"
        blocks.append(Code("\n".join(commands), "Commands of the runs", summary))
    if comparison.missing:
        table = _table(tables.missing(comparison), "missing-table", "Asked for and not shown.", wide=False)
        blocks += [Heading("Missing runs"), table]
    return _section("reproduce", *blocks)


def _table(content: Table, name: str, caption: str, *, wide: bool = True) -> Tabular:
    return Tabular(content, name, caption, style="wide" if wide else "short")


def _section(name: str, *blocks: Block) -> Section:
    return Section(name=name, title=TITLES[name], blocks=blocks)
