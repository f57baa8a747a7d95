"""What each stack of guards buys, and what it costs: tables and a figure of a comparison."""

from __future__ import annotations

from collections.abc import Iterator

from dptrain.report import words
from dptrain.report.blocks import Table
from dptrain.report.comparison import axes
from dptrain.report.comparison.points import Comparison, Guarded, Line, Point
from dptrain.report.comparison.sentences import ends, metric_name
from dptrain.report.defences import OPEN
from dptrain.report.figure import Figure
from dptrain.report.guarding import alarm

NONE = "none"


def shown(comparison: Comparison) -> list[tuple[Point, Guarded]]:
    """The points that are services, those without guards first."""
    found = [(point, point.guarded) for point in comparison.points if point.guarded is not None]
    return sorted(found, key=lambda each: len(each[1].guards))


def buys(comparison: Comparison) -> Table:
    """What is left of each attack's success behind each stack of guards."""
    rows = []
    for attack in _attacks(comparison):
        for point, service in shown(comparison):
            if (line := main_line(point, attack)) is None:
                continue
            bare = _bare(comparison, attack)
            probed = service.probed[attack]
            rows.append(
                (
                    metric_name(attack, line.metric, line.interface, line.fpr),
                    point.series,
                    ends(line.measured),
                    NONE if bare is None else ends(bare.measured),
                    "" if line.floor is None else words.number(line.floor),
                    words.percent(probed.withheld),
                    f"{probed.flagged:,} of {probed.sessions:,}",
                    "; ".join(dict.fromkeys(map(alarm, probed.until_alarm))),
                    words.bound(line.bound),
                )
            )
    return Table(
        heads=(
            "attack", "guards", "success", "without guards", "chance", "withheld", "sessions flagged",
            "first alarm after", "bound",
        ),
        rows=tuple(rows),
        numeric=range(2, 9),
    )  # fmt: skip


def costs(comparison: Comparison) -> Table:
    """What each stack of guards does to people, and how long an answer takes."""
    return Table(
        heads=(
            "guards", "normal sessions flagged", "of", "of a session's queries withheld", "of all",
            "ms p50", "ms p99", "without: p50", "p99",
        ),
        rows=tuple(
            (
                point.series,
                NONE if service.flagged is None else words.measured(service.flagged),
                f"{service.sessions:,}",
                NONE if service.withheld is None else words.measured(service.withheld),
                f"{service.queries:,}",
                *(f"{service.milliseconds[name]:.1f}" for name in ("p50", "p99", "bare_p50", "bare_p99")),
            )
            for point, service in shown(comparison)
        ),
        numeric=range(1, 9),
    )  # fmt: skip


def figure(comparison: Comparison) -> Figure | None:
    """Success of each attack by the services that it met, side by side; None where there are none."""
    points = [point for point, _ in shown(comparison)]
    attacks = [name for name in _attacks(comparison) if any(main_line(point, name) for point in points)]
    if not points or not attacks:
        return None
    known = {
        name: [(at, line) for at, point in enumerate(points) if (line := main_line(point, name)) is not None]
        for name in attacks
    }
    every = [line for found in known.values() for _, line in found]
    floors = [line.floor for line in every if line.floor is not None]
    extent = [end for line in every for end in axes.reach(line.measured)]
    panel = axes.make_panel(extent, floors, height=max(280, 34 * len(attacks) + 120))
    ticks = [((place + 0.5) / len(points), str(place + 1)) for place in range(len(points))]
    panel.axes("services, numbered as in the table of costs", "success", across=ticks)
    labels: list[tuple[float, str, str]] = []
    for floor in sorted(set(floors)):
        axes.draw_floor(panel, floor, labels)
    for number, (name, found) in enumerate(known.items()):
        style = axes.style(number)
        places = [(axes.beside(ticks[at][0], number, len(attacks)), line.measured) for at, line in found]
        axes.draw_measured(panel, places, style, joined=False)
        last = places[-1][1].centre
        labels.append((last, style, f"{axes.name_beside(name)}\n{words.number(last)}"))
    panel.labels(labels)
    return Figure(
        name="guards",
        title="What guards leave of each attack",
        caption="No theorem bounds what guards let pass.",
        summary=" ".join(_described(points[at], name, line) for name in known for at, line in known[name]),
        panel=panel,
    )


def main_line(point: Point, attack: str) -> Line | None:
    """What an attack is judged by first: its success through the interface as it is."""
    mine = (line for line in point.lines if line.attack == attack and line.interface in ("", OPEN))
    return next(mine, None)


def _attacks(comparison: Comparison) -> Iterator[str]:
    yield from dict.fromkeys(name for _, service in shown(comparison) for name in service.probed)


def _bare(comparison: Comparison, attack: str) -> Line | None:
    """The success of an attack on a service without guards."""
    points = (point for point, service in shown(comparison) if not service.guards)
    return next((line for point in points if (line := main_line(point, attack)) is not None), None)


def _described(point: Point, attack: str, line: Line) -> str:
    return f"{metric_name(attack, line.metric)} at {point.series}: {ends(line.measured)}."
