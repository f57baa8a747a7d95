"""A figure and the style sheet of all of them: in a page, or as an SVG file of its own."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

from dptrain.report.svg import LINE, WIDTH, Panel
from dptrain.report.words import tied

GAP = 40  # between figures of one file
MARGIN = 16  # around them
LONGEST = 50  # letters of a title's line


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure: its finding, what it shows, all that it says in words, and the picture itself."""

    name: str
    title: str
    caption: str
    summary: str  # for those who cannot see it
    panel: Panel

    def svg(self) -> str:
        """The picture, described to those who cannot see it."""
        return (
            f'<svg {self._described} viewBox="0 0 {WIDTH} {self.panel.height}" '
            f'xmlns="http://www.w3.org/2000/svg">{self._inner}</svg>'
        )

    def group(self, x: float, y: float) -> str:
        """The same as a part of a larger picture, its upper left corner at this place."""
        return f'<g {self._described} transform="translate({x} {y})">{self._inner}</g>'

    @property
    def _described(self) -> str:
        return f'role="img" aria-labelledby="{self.name}-title {self.name}-desc"'

    @property
    def _inner(self) -> str:
        return (
            f'<title id="{self.name}-title">{escape(self.title)}</title>'
            f'<desc id="{self.name}-desc">{escape(self.summary)}</desc>{"".join(self.panel.drawn)}'
        )


def standalone(*figures: Figure, sheet: str = "") -> str:
    """Figures side by side as a file of their own, each below its title, in light colours.

    `sheet` adds to the style sheet of every page.
    """
    titles = [textwrap.wrap(tied(each.title), LONGEST, break_on_hyphens=False) for each in figures]
    top = MARGIN + (LINE + 3) * max(map(len, titles)) + 6
    width = 2 * MARGIN + len(figures) * (WIDTH + GAP) - GAP
    height = top + max(figure.panel.height for figure in figures) + MARGIN
    drawn = [f"<style>{plain_style(style('page') + sheet)}</style>"]
    for place, (figure, lines) in enumerate(zip(figures, titles, strict=True)):
        left = MARGIN + place * (WIDTH + GAP)
        drawn += [
            f'<text class="title" x="{left}" y="{MARGIN + (LINE + 3) * row + 12}">{escape(line)}</text>'
            for row, line in enumerate(lines)
        ]
        drawn.append(figure.group(left, top))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>\n'
    )


@cache
def style(name: str) -> str:
    """A style sheet: `page` is that of every page, `comparison` what a comparison needs beside it."""
    return files("dptrain.report").joinpath(f"templates/{name}.css").read_text(encoding="utf-8")


def plain_style(sheet: str) -> str:
    """What a style sheet says of the parts of pictures, its colours by value, for programs without variables.

    >>> plain_style(":root { --ink: #123; } svg .tick { fill: var(--ink); } @media print { a { b: c; } }")
    'svg { background: #fff; font-family: DejaVu Sans, sans-serif; } svg .tick { fill: #123; }'
    """
    sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.S)
    plain = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", sheet)
    colours = dict(re.findall(r"(--[\w-]+):\s*([^;}]+)", plain))
    rules = re.findall(r"(svg [^{}]+\{[^{}]*\})", plain)
    valued = [re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], rule) for rule in rules]
    return " ".join(["svg { background: #fff; font-family: DejaVu Sans, sans-serif; }", *valued])
