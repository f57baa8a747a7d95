"""The figures of a comparison: utility, leakage and frontier, drawn on the panel of all figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dptrain.evidence.repeats import Spread
from dptrain.report import words
from dptrain.report.comparison import axes
from dptrain.report.comparison.points import VOID, Comparison, Line, Point
from dptrain.report.comparison.sentences import ends, metric_name
from dptrain.report.defences import OPEN
from dptrain.report.figure import Figure
from dptrain.report.svg import LINE, WIDTH, apart

RELEASED = "released"


def utility(comparison: Comparison) -> Figure | None:
    """Accuracy of each point with its seeds, between baseline and control; None where all are void."""
    points = shown(comparison)
    if not points:
        return None
    at = axes.places(points)
    floors = [point.floor for point in points if point.floor is not None]
    extent = [end for point in points for end in axes.reach(point.accuracy, point.control_accuracy)]
    every = _series(points, joined=at.joined)
    panel = axes.make_panel(extent, floors, height=max(280, _tall(every)))
    metric = words.named(comparison.metric)
    panel.axes(at.name, metric, across=at.ticks)
    labels: list[tuple[float, str, str]] = []
    controls, alike = _controls(points, at)
    if controls:
        centres = [(place, each.centre) for place, each in controls]
        if all(each.interval is not None for _, each in controls):
            axes.draw_steady(panel, centres, "line control dashed")
        else:
            axes.draw_measured(panel, controls, "control", joined=False)
        said = "control model" if alike else "best control"
        labels.append((centres[-1][1], "control", f"{said}\n{words.number(centres[-1][1])}"))
    if floors:
        axes.draw_floor(panel, floors[0], labels)
    for number, series in enumerate(every):
        found = [(_place(at, point, number, every), point.accuracy) for point in series.points]
        axes.draw_measured(panel, found, series.style, joined=at.joined)
        last = found[-1][1].centre
        if series.label:
            labels.append((last, series.style, f"{axes.name_beside(series.label)}\n{words.number(last)}"))
    panel.labels(labels)
    described = "; ".join(f"{point.label}: {ends(point.accuracy)}" for point in points)
    return Figure(
        name="utility",
        title=f"What privacy costs in {metric}",
        caption="Dots: mean or median over seeds, with its interval if there is one. Small dots: the seeds."
        + (f" Lines: {axes.shared_key(points)}." if at.joined and axes.shared_key(points) else ""),
        summary=f"{words.sentence_case(metric)} on test records. {described}."
        + (f" The control model: {words.number(controls[-1][1].centre)}." if controls else ""),
        panel=panel,
    )


def leakage(comparison: Comparison) -> list[Figure]:
    """One figure a metric: what was measured at each point beside baseline, control and bound."""
    points = shown(comparison)
    keys = dict.fromkeys(line.key for point in points for line in point.lines if line.interface in ("", OPEN))
    return [_leakage(points, key, f"leakage-{number}") for number, key in enumerate(keys)]


def _leakage(points: Sequence[Point], key: tuple[str, str, str], name: str) -> Figure:
    at = axes.places(points)
    lines = [(point, line) for point in points for line in point.lines if line.key == key]
    extent = [end for _, line in lines for end in axes.reach(line.measured, line.control)]
    bounds: dict[float, float] = {}  # the weakest at each place: series may share one
    for point, line in lines:
        place = at.by_point[point.label]
        if line.bound is not None and point.private:
            bounds[place] = max(line.bound, bounds.get(place, -math.inf))
    floors = [line.floor for _, line in lines if line.floor is not None]
    every = _series([point for point, _ in lines], joined=at.joined)
    panel = axes.make_panel([*extent, *bounds.values(), *floors], height=max(230, _tall(every)))
    panel.axes(at.name, "", across=at.ticks)
    labels: list[tuple[float, str, str]] = []
    if floors:
        axes.draw_floor(panel, floors[0], labels)
    if bounds:
        curve = sorted(bounds.items())
        if at.joined and len(curve) > 1:
            panel.curve(curve, "line bound")
        else:
            for place, bound in curve:
                axes.draw_tick(panel, place, bound, "line bound")
        labels.append((curve[-1][1], "bound", f"bound {words.at_most(curve[-1][1])}"))
    by_point = {point.label: line for point, line in lines}
    for number, series in enumerate(every):
        mine = [(_place(at, point, number, every), by_point[point.label]) for point in series.points]
        controls = [(place - 0.03, line.control) for place, line in mine if line.control is not None]
        if controls:
            axes.draw_measured(panel, controls, "control", joined=at.joined, dashed=True)
            if series is every[-1]:
                last = controls[-1][1].centre
                labels.append((last, "control", f"control {words.number(last)}"))
        found = [(place, line.measured) for place, line in mine]
        axes.draw_measured(panel, found, series.style, joined=at.joined)
        last = found[-1][1].centre
        if series.label:
            gap = " " if series.label == RELEASED else "\n"
            labels.append((last, series.style, f"{axes.name_beside(series.label)}{gap}{words.number(last)}"))
    panel.labels(labels)
    attack, metric, _ = key
    return Figure(
        name=name,
        title=metric_name(attack, metric),
        caption="" if bounds else "No theorem bounds this.",
        summary=" ".join(_described(point, line) for point, line in lines),
        panel=panel,
    )


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points on one line, with the look and the name of that line; no name: it is not to be named."""

    points: tuple[Point, ...]
    style: str
    label: str


def _series(points: Sequence[Point], *, joined: bool) -> list[Series]:
    """The points by series; side by side they are all of one kind, and the last stands for all."""
    names = list(dict.fromkeys(point.series for point in points))
    if joined:
        key = axes.shared_key(points)
        labels = [(name.partition(" = ")[2] if key else name) or RELEASED for name in names]
        styles = [axes.style(place) for place in range(len(names))]
    else:
        labels, styles = [""] * (len(names) - 1) + [RELEASED], [axes.style(0)] * len(names)
    return [
        Series(points=tuple(each for each in points if each.series == name), style=style, label=label)
        for name, style, label in zip(names, styles, labels, strict=True)
    ]


def _place(at: axes.Places, point: Point, number: int, every: Sequence[Series]) -> float:
    """The place of a point of this series among all that are drawn as lines."""
    place = at.by_point[point.label]
    return axes.beside(place, number, len(every)) if at.joined else place


def _tall(every: Sequence[Series]) -> int:
    """The height at which the names of so many series have room below each other."""
    lines = sum(axes.name_beside(series.label).count("\n") + 2 for series in every)
    return LINE * (lines + 5)


def _controls(points: Sequence[Point], at: axes.Places) -> tuple[list[tuple[float, Spread]], bool]:
    """The best control model at each place, and whether all that share a place do equally well."""
    best: dict[float, Spread] = {}
    alike = True
    for point in points:
        found = point.control_accuracy
        place = round(at.by_point[point.label], 2)  # what mechanisms spend of one epsilon differs a little
        if found is not None:
            there = best.get(place, found)
            alike &= there.centre == found.centre
            best[place] = max(there, found, key=lambda each: each.centre)
    return list(best.items()), alike


def _described(point: Point, line: Line) -> str:
    text = f"{point.label}: measured {ends(line.measured)}"
    text += "" if line.control is None else f", control {ends(line.control)}"
    return f"{text}, bound {words.bound(line.bound) if point.private else 'none'}."


def frontier(comparison: Comparison) -> Figure | None:
    """Accuracy against what the guarantee leaves to membership tests; None where nothing is proved."""
    points = [point for point in comparison.points if point.private and point.membership_bound is not None]
    if not points:
        return None
    bounds = {point.label: point.membership_bound or 0.0 for point in points}
    panel = axes.make_panel([end for point in points for end in axes.reach(point.accuracy)], right=20)
    panel.x = (0.0, 1.12 * max(bounds.values()))
    metric = words.named(comparison.metric)
    panel.axes("bound on the true-positive rate at 1 % false positives", metric)
    best = sorted((bounds[point.label], point.accuracy.centre) for point in points if point.pareto)
    panel.curve(best, "line second dashed")
    for point in points:
        style = "second" if point.pareto else "hollow"
        axes.draw_whisker(panel, bounds[point.label], point.accuracy, style)
        panel.dot((bounds[point.label], point.accuracy.centre), f"mark {style}")
    named = [point for point in points if point.pareto]
    places_of = [panel.across(bounds[point.label]) for point in named]
    left = [x > WIDTH - 150 for x in places_of]  # no room to the right: above and to the left instead
    wanted = [
        panel.down(point.accuracy.centre) + (-14 if turned else 14)
        for point, turned in zip(named, left, strict=True)
    ]
    heights = apart(wanted, [LINE] * len(named), low=0.0, high=float(panel.height - panel.bottom))
    for point, x, turned, height in zip(named, places_of, left, heights, strict=True):
        place = (x - 10, height + 4) if turned else (x + 14, height + 4)
        panel.text(place, axes.clip(point.label, 24), "name second", anchor="end" if turned else "start")
    described = "; ".join(
        f"{point.label}: {metric} {ends(point.accuracy)} at a bound of "
        f"{words.percent_at_most(bounds[point.label])}"
        + (", on the frontier" if point.pareto else ", beaten by another")
        for point in points
    )
    return Figure(
        name="frontier",
        title="What can be had",
        caption="Filled: no other point is better in both. Hollow: another is. To the upper left is better.",
        summary=f"{described}.",
        panel=panel,
    )


def shown(comparison: Comparison) -> list[Point]:
    """The points that figures show: a void guarantee is no place on an axis."""
    return [point for point in comparison.points if point.status != VOID]
