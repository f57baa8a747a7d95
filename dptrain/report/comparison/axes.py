"""Axes and marks of a comparison's figures, on the panel of all figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dptrain.contracts.rounding import rounded_up_to
from dptrain.evidence.repeats import Spread
from dptrain.report import words
from dptrain.report.comparison.points import Point
from dptrain.report.svg import WIDTH, Panel

LEFT = 52  # room for the ticks and the name of the axis
RIGHT = 112  # room for names beside the lines
APART = 0.014  # of the panel's width, between series at the same place
PADDING = 0.12  # of the range, left free above and below
FAR = 1.0  # ranges below the rest, and a floor is named at the edge instead of drawn
LEAST = 0.01  # epsilon where the logarithmic axis begins
STYLES = ("release", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where points lie from left to right: by the logarithm of epsilon, or, where it is one, side by side."""

    by_point: dict[str, float]
    ticks: tuple[tuple[float, str], ...]
    name: str
    joined: bool  # points of a series lie on a line


def places(points: Sequence[Point]) -> Places:
    """The places of these points, between 0 and 1."""
    finite = sorted({max(point.epsilon, LEAST) for point in points if math.isfinite(point.epsilon)})
    if len({words.number(epsilon) for epsilon in finite}) < 2:
        return _side_by_side(points)
    endless = any(math.isinf(point.epsilon) for point in points)
    low, high, most = math.log(finite[0]), math.log(finite[-1]), 0.8 if endless else 0.95

    def place(epsilon: float) -> float:
        if math.isinf(epsilon):
            return 0.98
        return 0.05 + (most - 0.05) * (math.log(max(epsilon, LEAST)) - low) / (high - low)

    named = {rounded_up_to(epsilon, 3): place(epsilon) for epsilon in finite} | (
        {"∞": 0.98} if endless else {}
    )
    return Places(
        by_point={point.label: place(point.epsilon) for point in points},
        ticks=tuple((at, text) for text, at in named.items()),
        name="ε, logarithmic",
        joined=True,
    )


def _side_by_side(points: Sequence[Point]) -> Places:
    at = {point.label: (place + 0.5) / len(points) for place, point in enumerate(points)}
    key = shared_key(points)
    texts = [point.series.partition(" = ")[2] for point in points]
    if not key or any(len(text) > 64 // len(points) for text in texts):
        key, texts = "points, numbered as in the tables", [str(n) for n in range(1, len(points) + 1)]
    return Places(by_point=at, ticks=tuple(zip(at.values(), texts, strict=True)), name=key, joined=False)


def shared_key(points: Sequence[Point]) -> str:
    """The one setting by which series differ; empty where it is none or several."""
    keys = {point.series.partition(" = ")[0] for point in points}
    one_each = all(point.series.count(" = ") == 1 for point in points)
    return keys.pop() if one_each and len(keys) == 1 else ""


def reach(*spreads: Spread | None) -> Iterable[float]:
    """Every value that the axis has to hold."""
    for each in spreads:
        if each is not None:
            yield from each.values
            if each.interval is not None:
                yield from (each.interval.low, each.interval.high)


def style(number: int) -> str:
    """The look of one of several series; those beyond the last look like it."""
    return STYLES[min(number, len(STYLES) - 1)]


def beside(at: float, number: int, count: int) -> float:
    """The place of one of several series whose points would lie upon each other.

    >>> [round(beside(0.5, number, 3), 3) for number in range(3)]
    [0.486, 0.5, 0.514]
    """
    return at + APART * (number - (count - 1) / 2)


def make_panel(
    values: Sequence[float], floors: Sequence[float] = (), *, height: int = 280, right: int = RIGHT
) -> Panel:
    """A panel that these values fill; a floor too far below would press them flat and is left out."""
    low, high = min(values), max(values)
    near = [floor for floor in floors if low - floor <= FAR * (high - low)]
    low = min(low, *near) if near else low
    free = PADDING * (high - low) or 0.05
    ends = max(low - free, min(0.0, low)), high + free
    return Panel(x=(0, 1), y=ends, left=LEFT, right=right, height=height)


def draw_floor(panel: Panel, floor: float, labels: list[tuple[float, str, str]]) -> None:
    """A dotted line at the floor, or, where it lies below the axis, its name at the edge."""
    if floor >= panel.y[0]:
        at = panel.down(floor)
        panel.segment((panel.left, at), (WIDTH - panel.right, at), "line floor dotted")
        labels.append((floor, "floor", f"baseline {words.number(floor)}"))
    else:
        labels.append((floor, "floor", f"baseline {words.number(floor)} ↓"))


def draw_steady(panel: Panel, points: Sequence[tuple[float, float]], style: str) -> None:
    """A line through points, drawn out to both edges of the panel."""
    ordered = sorted(points)
    panel.curve([(0.0, ordered[0][1]), *ordered, (1.0, ordered[-1][1])], style)


def draw_measured(
    panel: Panel, found: Sequence[tuple[float, Spread]], style: str, *, joined: bool, dashed: bool = False
) -> None:
    """Centres with their whiskers and seeds; joined where the axis has an order and each has an interval."""
    if joined and len(found) > 1 and all(each.interval is not None for _, each in found):
        panel.curve([(at, each.centre) for at, each in found], f"line {style}{' dashed' if dashed else ''}")
    for at, each in found:
        draw_whisker(panel, at, each, style)
        panel.dot((at, each.centre), f"mark {style}")


def draw_whisker(panel: Panel, at: float, each: Spread, style: str) -> None:
    """The interval as a bar with ends, the seeds as small dots to its right."""
    x = panel.across(at)
    if each.interval is not None:
        low, high = panel.down(each.interval.low), panel.down(each.interval.high)
        panel.segment((x, low), (x, high), f"whisker {style}")
        for end in (low, high):
            panel.segment((x - 4, end), (x + 4, end), f"whisker {style}")
    for value in each.values:
        panel.disc((x + 8, panel.down(value)), 2, f"seed {style}")


def draw_tick(panel: Panel, at: float, value: float, style: str) -> None:
    """A short horizontal line at one place."""
    x, y = panel.across(at), panel.down(value)
    panel.segment((x - 13, y), (x + 13, y), style)


def clip(text: str, most: int = 13) -> str:
    """The text, with dots for what is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def name_beside(text: str, most: int = 14) -> str:
    """A series' name in the room beside its line: a long one on two lines, parted at an underscore.

    >>> name_beside("sufficient_statistics").splitlines()
    ['sufficient_', 'statistics']
    """
    first, under, last = text.rpartition("_")
    if len(text) <= most or not under:
        return clip(text, most)
    return f"{clip(first + under, most)}\n{clip(last, most)}"
