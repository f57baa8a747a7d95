"""Figures of a run: what was spent, what the model can do, and what the attacks saw."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import Interval, Leakage, Report
from dptrain.report import defences, titles, words
from dptrain.report.leakage_words import metric

if TYPE_CHECKING:  # else late, as a run needs matplotlib, which takes a second, in its end only
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito 2008, "Color Universal Design": told apart by every kind of colour vision.
RELEASE, CONTROL, FLOOR, BOUND = "#0072B2", "#D55E00", "#8C8C8C", "#1A1A1A"
INK, FAINT = "#333333", "#DDDDDD"
DPI = 160
LARGEST_GALLERY = 12  # rows; more would be too small to see
NO_RATE = ("auc", "certified_epsilon")  # metrics that are no share of anything
SMALLEST_FPR = 1e-4  # where the logarithmic axes begin

# It warns of each font for formulas that it does not find, and draws them all the same with the next one.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write the figures that this report has data for, as PNG; returns their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, Callable[[Report], Figure], bool]] = [
        ("epsilon", epsilon, bool(report.epsilon_by_step)),
        ("utility", utility, True),
        ("reconstruction", reconstruction, bool(bounded(report) or report.tradeoff)),
        ("queries", queries, bool(report.queries)),
        ("class_inversion", class_inversion, report.gallery is not None),
    ]
    paths = []
    for name, draw, wanted in drawn:
        if wanted:
            path = folder / f"{name}.png"
            FigureCanvasAgg(draw(report)).print_png(str(path), metadata={"Software": "dptrain"})
            paths.append(path)
    return paths


def bounded(report: Report) -> list[tuple[Leakage, float]]:
    """The success rates that the guarantee bounds, those that ask about single records, with their bounds."""
    return [
        (line, line.bound)
        for line in report.leakage
        if line.bound is not None and line.metric not in NO_RATE and defences.shown(line)
    ]


# ---------------------------------------------------------------------- the figures


def epsilon(report: Report) -> Figure:
    """What had been spent after each step."""
    figure, axes = _page(6.4, 3.8)
    steps, spent = zip(*report.epsilon_by_step, strict=True)
    axes.plot(steps, spent, color=RELEASE, linewidth=2)
    axes.fill_between(steps, spent, color=RELEASE, alpha=0.08, linewidth=0)
    axes.plot(steps[-1], spent[-1], "o", color=RELEASE, markersize=6, clip_on=False)
    axes.set(xlim=(0, steps[-1]), ylim=(0, 1.15 * max(spent)))
    statement = report.guarantee
    budget = f"ε = {words.epsilon(spent[-1])}"
    if statement.void:
        _stamp(axes)
    else:
        axes.annotate(
            budget,
            (steps[-1], spent[-1]),
            xytext=(-10, 5),
            textcoords="offset points",
            ha="right",
            color=RELEASE,
            fontsize=10,
            fontweight="bold",
        )
    _label(axes, title=titles.spent(report), x="training step", y="ε spent so far")
    return figure


def utility(report: Report) -> Figure:
    """Accuracy on the way and in the end, between the floor and the non-private twin."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = _page(6.8, 3.8)
    figure.subplots_adjust(right=0.72)
    last = max((step for step, _, _ in report.holdout_by_step), default=1)
    test = report.utility.accuracy
    labels = [
        (test.value, RELEASE, f"test  {words.number(test.value)}"),
        (
            report.floor_accuracy,
            FLOOR,
            f"floor  {words.number(report.floor_accuracy)}\n(most frequent class)",
        ),
    ]
    if report.control is not None:
        twin = report.control.accuracy
        axes.axhspan(twin.low, twin.high, color=CONTROL, alpha=0.10, linewidth=0)
        axes.axhline(twin.value, color=CONTROL, linewidth=1.5, linestyle=(0, (5, 2)))
        labels.append((twin.value, CONTROL, f"non-private twin  {words.number(twin.value)}"))
    axes.axhline(report.floor_accuracy, color=FLOOR, linewidth=1.5, linestyle=(0, (1, 1.5)))
    if report.holdout_by_step:
        steps, accuracies, _ = zip(*report.holdout_by_step, strict=True)
        axes.plot(steps, accuracies, color=RELEASE, linewidth=2, marker="o", markersize=3.5)
        middle = len(steps) // 2
        axes.annotate(
            "held-out records, on the way",
            (steps[middle], accuracies[middle]),
            xytext=(4, -16),
            textcoords="offset points",
            color=RELEASE,
            fontsize=9,
        )
    axes.errorbar(1.05 * last, test.value, yerr=_bars(test), fmt="D", color=RELEASE, markersize=6, capsize=3)
    heights = _spread([height for height, _, _ in labels], gap=0.06)
    for (_, colour, text), height in zip(labels, heights, strict=True):
        axes.text(1.12 * last, height, text, color=colour, fontsize=9, va="center")
    axes.set(xlim=(0, 1.10 * last), ylim=(0, 1.0))
    _label(axes, title=titles.utility(report), x="training step", y="accuracy")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1f}"))
    ticks = MaxNLocator(5, integer=True).tick_values(0, last) if report.holdout_by_step else []
    axes.set_xticks([tick for tick in ticks if tick <= last])
    if not report.holdout_by_step:
        axes.set_xlabel("after training", color=INK)
    return figure


def reconstruction(report: Report, *, log: bool = True) -> Figure:
    """Left: attacks on single records beside their bounds; right: the most that membership tests can do."""
    lines = bounded(report)
    both = bool(lines) and bool(report.tradeoff)
    height = max(4.2, 1.6 + 0.8 * len(lines))
    figure = _figure(10.4 if both else 5.6, height)
    figure.set_layout_engine("constrained", wspace=0.08, w_pad=0.12, h_pad=0.12)
    grid = figure.subplots(1, 2 if both else 1, squeeze=False, width_ratios=(1.25, 1) if both else None)[0]
    if lines:
        _successes(report, grid[0])
    if report.tradeoff:
        _tradeoff(report, grid[-1], log=log)
    return figure


def queries(report: Report) -> Figure:
    """How often class inversions by query are recognised, against the queries spent on them."""
    figure, axes = _page(6.8, 3.8)
    figure.subplots_adjust(right=0.74)
    styles = dict(zip(report.queries, ("-", (0, (5, 2)), (0, (1, 1.5)), "-."), strict=False))
    labels = []
    for attack, curve in report.queries.items():
        spent, released, control = zip(*curve, strict=True)
        for found, colour, whose in ((released, RELEASE, "release"), (control, CONTROL, "twin")):
            shares = [share for share in found if share is not None]
            if not shares:
                continue
            axes.plot(
                spent, shares, color=colour, linestyle=styles[attack], linewidth=2, marker="o", markersize=3
            )
            name = attack.removeprefix("class_inversion_")
            labels.append((shares[-1], colour, f"{name}, {whose}  {words.number(shares[-1])}"))
    ends = [curve[-1][0] for curve in report.queries.values()]
    heights = _spread([height for height, _, _ in labels], gap=0.06)
    for (_, colour, text), height in zip(labels, heights, strict=True):
        axes.text(1.15 * max(ends), height, text, color=colour, fontsize=9, va="center")
    axes.set(xscale="log", ylim=(-0.02, 1.04))
    _label(
        axes,
        title=titles.queries(report),
        x="queries spent, over all classes",
        y="share recognised",
    )
    return figure


def class_inversion(report: Report) -> Figure:
    """One row a class: its mean image, the inversions of the release and of the twin, the nearest member."""
    gallery = report.gallery
    assert gallery is not None
    rows = min(len(gallery.classes), LARGEST_GALLERY)
    columns = [("mean image", gallery.mean), ("from the release", gallery.released)]
    if gallery.control is not None:
        columns.append(("from the twin\n(not private)", gallery.control))
    columns.append(("nearest\ntraining record", gallery.nearest_member))
    side, names, top, bottom = 1.15, 1.35, 0.86, 0.55
    width, height = names + side * len(columns) + 0.2, top + side * rows + bottom
    figure = _figure(width, height)
    low, high = gallery.bounds
    for column, (title, images) in enumerate(columns):
        for row in range(rows):
            box = (
                (names + column * side + 0.04) / width,
                1 - (top + (row + 1) * side - 0.04) / height,
                (side - 0.08) / width,
                (side - 0.08) / height,
            )
            axes = figure.add_axes(box)
            axes.imshow(pixels(images[row], low, high), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=FAINT, linewidth=0.8)
            if row == 0:
                colour = {1: RELEASE}.get(column, CONTROL if "twin" in title else INK)
                axes.set_title(title, fontsize=9, color=colour, pad=5)
            if column == 0:
                name = "\n".join(textwrap.wrap(gallery.classes[row], 16)[:3])
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=INK, labelpad=8)
    figure.text(
        0.12 / width,
        1 - 0.18 / height,
        "What the release gives away of each class",
        fontsize=11,
        fontweight="bold",
        color=INK,
        va="top",
    )
    more = len(gallery.classes) - rows
    caption = "Confidential: the last column shows training records."
    if more:
        caption += f"\n{more} more classes are not shown."
    figure.text(
        0.12 / width, 0.16 / height, caption, fontsize=9, fontweight="bold", color=CONTROL, va="bottom"
    )
    return figure


# ---------------------------------------------------------------------- panels


def _successes(report: Report, axes: Axes) -> None:
    """One row an attack: release and control with intervals, floor and bound as ticks."""
    lines, void = bounded(report), report.guarantee.void
    for row, (line, bound) in enumerate(lines):
        axes.axhspan(row - 0.42, row + 0.42, color="#F6F6F6", linewidth=0, zorder=0)
        axes.plot([line.floor] * 2, [row - 0.34, row + 0.34], color=FLOOR, linewidth=2.2, zorder=2)
        if not void:
            axes.plot([bound] * 2, [row - 0.34, row + 0.34], color=BOUND, linewidth=2.2, zorder=2)
        for value, colour, marker, offset in (
            (line.value, RELEASE, "o", -0.13),
            (line.control, CONTROL, "s", 0.13),
        ):
            if value is not None:
                axes.errorbar(
                    value.value,
                    row + offset,
                    xerr=_bars(value),
                    fmt=marker,
                    color=colour,
                    markersize=6,
                    capsize=3,
                    linewidth=1.6,
                    zorder=3,
                )
    keys = [
        ("release", RELEASE, "o"),
        ("non-private twin", CONTROL, "s"),
        ("floor", FLOOR, "|"),
        ("bound", BOUND, "|"),
    ]
    for label, colour, marker in keys:
        absent = (label == "bound" and void) or (
            colour == CONTROL and all(line.control is None for line, _ in lines)
        )
        if not absent:
            size = 9 if marker == "|" else 6
            axes.plot([], [], marker, color=colour, label=label, markersize=size, markeredgewidth=2)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.3,
        columnspacing=1.4,
        labelcolor=INK,
    )
    axes.set(yticks=range(len(lines)), ylim=(len(lines) - 0.45, -0.55), xlim=(-0.02, 1.03))
    axes.set_yticklabels(["\n".join(_spoken(line.attack) + _spoken(metric(line))) for line, _ in lines])
    _label(axes, title=titles.attacks(report, lines), x="success rate", y="")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _spoken(name: str) -> list[str]:
    """A name as lines of words."""
    return textwrap.wrap(name.replace("_", " "), 18)


def _tradeoff(report: Report, axes: Axes, *, log: bool) -> None:
    """The most true positives of any membership test against its false positives."""
    start = SMALLEST_FPR if log else 0.0
    curve = np.array([point for point in report.tradeoff if point[0] >= start])
    place = report.guarantee.tpr_at_fpr["0.01"]
    axes.plot(curve[:, 0], curve[:, 1], color=RELEASE, linewidth=2)
    axes.plot(0.01, place, "o", color=RELEASE, markersize=6)
    axes.plot([start, 1.0], [start, 1.0], color=FLOOR, linewidth=1.5, linestyle=(0, (1, 1.5)))
    scale = "log" if log else "linear"
    axes.set(xscale=scale, yscale=scale, xlim=(start, 1), ylim=(start, 1))
    axes.set_aspect("equal")
    say = partial(axes.text, transform=axes.transAxes, fontsize=9, va="top")
    say(0.72, 0.62, "guessing", color=FLOOR, rotation=45, ha="center", rotation_mode="anchor")
    if report.guarantee.void:
        _stamp(axes)
    else:
        axes.fill_between(curve[:, 0], curve[:, 1], 1.0, color=BOUND, alpha=0.06, linewidth=0)
        say(0.05, 0.94, "impossible", color=INK, style="italic")
    _label(axes, title=titles.tradeoff(report), x="false-positive rate", y="true-positive rate")


# ---------------------------------------------------------------------- house style


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.11, right=0.95, top=0.88, bottom=0.15)
    return figure, axes


def _label(axes: Axes, *, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(colors=INK, labelsize=9, width=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color="#999999", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.grid(axis="both", color=FAINT, linewidth=0.6)


def _stamp(axes: Axes) -> None:
    """VOID, across what would otherwise be read as a promise."""
    axes.text(
        0.5,
        0.5,
        "VOID",
        transform=axes.transAxes,
        fontsize=40,
        fontweight="bold",
        color="#C00000",
        alpha=0.5,
        ha="center",
        va="center",
        rotation=20,
    )


def _bars(value: Interval) -> list[list[float]]:
    """Lengths of the error bars below and above."""
    return [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]


def _spread(heights: list[float], *, gap: float) -> list[float]:
    """The same heights, moved apart so that labels placed there do not overlap."""
    placed = list(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


def pixels(image: Tensor, low: float, high: float) -> np.ndarray:
    """An image (C, H, W) in bounds as matplotlib takes it, in [0, 1]: (H, W) or (H, W, 3)."""
    scaled = ((image.detach().cpu().float() - low) / (high - low)).clamp(0, 1)
    if len(scaled) == 3:
        return scaled.permute(1, 2, 0).numpy()
    return torch.mean(scaled, 0).numpy()
