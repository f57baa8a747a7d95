"""A plotting panel in SVG: classes instead of colours, so that a style sheet decides how it looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

WIDTH = 440  # of every figure, in its own units: as wide as a phone, so that text stays readable there
LINE = 15  # height of a line of text
CLOSE = 30  # a tick nearer than this to the last is not written


@dataclass(kw_only=True)
class Panel:
    """Axes with data ranges `x` and `y`, and the elements that were drawn on them so far."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int = 280
    left: int = 46
    right: int = 14
    top: int = 14
    bottom: int = 44
    log_x: bool = False
    log_y: bool = False
    drawn: list[str] = field(default_factory=list)

    def across(self, x: float) -> float:
        """Where a value lies from left to right."""
        return self.left + _share(x, self.x, log=self.log_x) * (WIDTH - self.left - self.right)

    def down(self, y: float) -> float:
        """Where a value lies from top to bottom."""
        return (
            self.height
            - self.bottom
            - _share(y, self.y, log=self.log_y) * (self.height - self.top - self.bottom)
        )

    def axes(
        self,
        x: str,
        y: str,
        *,
        name: Callable[[float], str] = "{:.15g}".format,
        across: Sequence[tuple[float, str]] = (),
    ) -> None:
        """Ticks, grid and labels; `name` writes the vertical ticks; `across`: those of the other axis."""
        floor, ends = self.height - self.bottom, (self.left, WIDTH - self.right)
        for value in ticks(self.y, log=self.log_y):
            at = self.down(value)
            self.segment((ends[0], at), (ends[1], at), "grid")
            self.text((ends[0] - 6, at + 4), name(value), "tick", anchor="end")
        last, both = -math.inf, self.log_x and self.log_y
        found = ((at, name(at) if both else f"{at:,.15g}") for at in ticks(self.x, log=self.log_x))
        for value, text in across or found:
            at = self.across(value)
            self.segment((at, floor), (at, floor + 4), "axis")
            if at - last >= CLOSE:
                self.text((at, floor + 17), text, "tick", anchor="middle")
                last = at
        self.segment((ends[0], floor), (ends[1], floor), "axis")
        self.text((sum(ends) / 2, self.height - 6), x, "label", anchor="middle")
        if y:
            middle = (self.top + floor) / 2
            turned = f' transform="rotate(-90 11 {middle:.1f})"'
            self.text((11, middle), y, "label", anchor="middle", more=turned)

    def curve(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """A line through data points."""
        self.drawn.append(f'<path class="{style}" d="{self._path(points)}"/>')

    def area(self, points: Sequence[tuple[float, float]], edge: float, style: str) -> None:
        """What lies between a curve and the horizontal line at `edge`."""
        outline = [(points[0][0], edge), *points, (points[-1][0], edge)]
        self.drawn.append(f'<path class="{style}" d="{self._path(outline)}Z"/>')

    def dot(self, point: tuple[float, float], style: str) -> None:
        """A round mark at a data point."""
        self.disc((self.across(point[0]), self.down(point[1])), 4.5, style)

    def mark(self, place: tuple[float, float], style: str) -> None:
        """At a place on the page a disc for the release, a square for the rest: told apart without colour."""
        if style == "release":
            self.disc(place, 4.5, "mark release")
        else:
            self.box((place[0] - 3.5, place[1] - 3.5), (7, 7), f"mark {style}")

    def disc(self, middle: tuple[float, float], radius: float, style: str) -> None:
        """A disc at a place on the page."""
        x, y = middle
        self.drawn.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')

    def segment(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """A straight line between two places on the page."""
        (x1, y1), (x2, y2) = start, end
        self.drawn.append(f'<path class="{style}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    def box(self, corner: tuple[float, float], size: tuple[float, float], style: str) -> None:
        """A rectangle, by its upper left corner on the page and its width and height."""
        (x, y), (width, height) = corner, size
        self.drawn.append(
            f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        )

    def text(
        self, place: tuple[float, float], words: str, style: str, *, anchor: str = "start", more: str = ""
    ) -> None:
        """Words at a place on the page."""
        x, y = place
        self.drawn.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>'
            f"{escape(words)}</text>"
        )

    def labels(self, labels: Sequence[tuple[float, str, str]]) -> None:
        """Names at the right end of lines, moved apart: height in data, style, words; a new line is kept."""
        wanted = [self.down(height) for height, _, _ in labels]
        tall = [LINE * (1 + words.count("\n")) for _, _, words in labels]
        placed = apart(wanted, tall, low=float(self.top), high=float(self.height - self.bottom + LINE))
        for middle, high, (_, style, words) in zip(placed, tall, labels, strict=True):
            for row, line in enumerate(words.split("\n")):
                at = middle - high / 2 + LINE * row + 11
                self.text((WIDTH - self.right + 8, at), line, f"name {style}")

    def void_mark(self) -> None:
        """VOID, across what would otherwise be read as a promise."""
        x, y = (self.left + WIDTH - self.right) / 2, (self.top + self.height - self.bottom) / 2
        self.text(
            (x, y + 16), "VOID", "void", anchor="middle", more=f' transform="rotate(-18 {x:.1f} {y:.1f})"'
        )

    def _path(self, points: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.across(x):.1f} {self.down(y):.1f}" for x, y in points)


def ticks(ends: tuple[float, float], *, log: bool) -> list[float]:
    """Round numbers within a range, at most six; powers of ten on a logarithmic axis."""
    low, high = ends
    if log:
        return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    least = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(least))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 15) for place in range(first, last + 1)]


def apart(wanted: Sequence[float], tall: Sequence[float], *, low: float, high: float) -> list[float]:
    """Middles as near to the wanted ones as labels of these heights allow without overlap.

    They are pushed downwards first, then upwards where they would pass `high`.

    >>> apart([10.0, 12.0], [10.0, 10.0], low=0.0, high=100.0)
    [10.0, 20.0]
    >>> apart([95.0, 95.0], [10.0, 10.0], low=0.0, high=100.0)
    [85.0, 95.0]
    """
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [max(middle, low + height / 2) for middle, height in zip(wanted, tall, strict=True)]
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + (tall[above] + tall[below]) / 2)
    if order:
        placed[order[-1]] = min(placed[order[-1]], high - tall[order[-1]] / 2)
    for above, below in reversed(list(pairwise(order))):
        placed[above] = min(placed[above], placed[below] - (tall[above] + tall[below]) / 2)
    return placed


def _share(value: float, ends: tuple[float, float], *, log: bool) -> float:
    """How far along a range a value lies, held within it."""
    low, high = ends
    if log:
        value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
    return min(1.0, max(0.0, (value - low) / (high - low)))
