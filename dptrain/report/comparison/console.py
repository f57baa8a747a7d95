"""The comparison at the terminal: the verdict, and one table each of utility, leakage and cost."""

from __future__ import annotations

import rich.console
from rich import box
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from dptrain.report.blocks import Table
from dptrain.report.comparison import guards, sentences, tables
from dptrain.report.comparison.points import MET, NOT_MET, UNDECIDED, VOID, Comparison

WIDEST = 132  # longer lines are hard to read
WIDE = ("AUROC", "seeds", "worst for")  # columns of the page's table that do not fit a terminal
TONES = {"void": "bold red", MET: "green", NOT_MET: "red", UNDECIDED: "yellow"}
LEAKAGE = (0, 1, 2, 3, 4, 5)


def show(comparison: Comparison, out: rich.console.Console | None = None) -> None:
    """Print a comparison."""
    out = out or rich.console.Console(highlight=False, markup=False, emoji=False)
    width = min(out.width, WIDEST)
    data, answer = comparison.data, comparison.answer
    out.print(
        Text.assemble("\n", (comparison.title, "bold"), "  ", (f"{data['name']}, {data['source']}", "dim")),
        soft_wrap=True,
    )
    for point in comparison.points:
        if point.status == VOID:
            out.print(Text(f" VOID  {point.label}: {point.void_reason} ", style="bold white on red"))
    style = "" if answer is None else "bold green" if answer.met else "bold yellow"
    out.print(Padding(Text(sentences.lead(comparison), style=style), (1, 0)), width=width)
    if answer is not None:
        out.print(_table("LIMITS", _below(tables.limits(answer))), width=width)
    utility = tables.utility(comparison)
    fit = tuple(place for place, head in enumerate(utility.heads) if head not in WIDE)
    out.print(_table("UTILITY", _columns(utility, fit)), width=width)
    if comparison.neighbours:
        out.print(_table("NEIGHBOURS", tables.neighbours(comparison)), width=width)
    if any(point.lines for point in comparison.points):
        out.print(_table("LEAKAGE", _below(_columns(tables.leakage(comparison), LEAKAGE))), width=width)
    if guards.shown(comparison):
        out.print(_table("GUARDS", _below(_columns(guards.buys(comparison), LEAKAGE))), width=width)
        out.print(_table("THEIR COST", guards.costs(comparison)), width=width)
    out.print(_table("GUARANTEE", _columns(tables.guarantees(comparison), (0, 1, 2, 3, 4))), width=width)
    out.print(_table("SEARCH", tables.search(comparison)), width=width)
    if comparison.missing:
        out.print(_table("MISSING", tables.missing(comparison)), width=width)
    level = f"{comparison.confidence:.0%}"
    legend = f"In brackets: {level} intervals over seeds. {sentences.UNADJUSTED} {sentences.NO_CEILING}"
    out.print(Padding(Text(legend, style="dim"), (0, 0, 1, 0)), width=width)


def _columns(table: Table, kept: tuple[int, ...]) -> Table:
    return Table(
        heads=tuple(table.heads[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
        numeric=range(table.numeric.start, len(kept)),
    )


def _below(content: Table) -> Table:
    """The same with the second column below the first: each name once, on a line of its own."""
    rows: list[tuple[str, ...]] = []
    last = ""
    for name, below, *rest in content.rows:
        if name != last:
            rows.append((name, *[""] * len(rest)))
            last = name
        rows.append((f"  {below}", *rest))
    heads = (content.heads[0], *content.heads[2:])
    numeric = range(content.numeric.start - 1, content.numeric.stop - 1) if content.numeric else range(0)
    return Table(heads=heads, rows=tuple(rows), numeric=numeric)


def _table(title: str, content: Table) -> RichTable:
    """A table whose first column carries its title."""
    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
    table.add_column(Text(title, style="bold cyan"), overflow="fold", ratio=2, min_width=14)
    for place, head in enumerate(content.heads[1:], 1):
        if place in content.numeric:
            table.add_column(Text(head), justify="right", overflow="fold")
        else:
            table.add_column(Text(head), overflow="fold", ratio=2)
    for first, *rest in content.rows:
        table.add_row(Text(first), *map(_cell, rest))  # a list in a name is no markup
    return table


def _cell(text: str) -> Text:
    """A number, its interval below it."""
    value, bracket, rest = text.replace("no interval: ", "").partition(" [")
    cell = Text(value, style=TONES.get(value, ""))
    return cell.append(f"\n[{rest}", style="dim") if bracket else cell
