"""The figures of a run: what was spent, what the model can do, what the attacks saw; titles are findings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dptrain.contracts import Interval, Leakage, Report
from dptrain.contracts.rounding import percent_down, percent_up
from dptrain.report import defences, words
from dptrain.report.cost_figures import calibration, cost_figure
from dptrain.report.figure import Figure, standalone
from dptrain.report.gallery import write_gallery
from dptrain.report.leakage_words import compatible, digits, readable
from dptrain.report.sentences import CAPTIONS
from dptrain.report.svg import WIDTH, Panel
from dptrain.storage import write_text

ROW = 64  # height of an attack in the figure of attacks
BAR = 24  # of its track
NO_RATE = ("auc", "certified_epsilon")  # metrics that are no share of anything
SMALLEST_FPR = 1e-4  # where the logarithmic axes begin
FILES = {  # names of files, and of the figures that are side by side in each
    "epsilon": ("epsilon",),
    "utility": ("utility",),
    "reconstruction": ("attacks", "tradeoff"),
    "queries": ("queries",),
    "costs": ("costs",),
    "calibration": ("calibration",),
}


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write the figures that this report has data for as SVG, and its gallery as PNG; returns their paths."""
    by_name = {figure.name: figure for figure in figures(report)}
    paths = []
    for name, parts in FILES.items():
        if there := [by_name[part] for part in parts if part in by_name]:
            paths.append(folder / f"{name}.svg")
            write_text(standalone(*there), paths[-1])
    if report.gallery is not None:
        paths.append(folder / "class_inversion.png")
        write_gallery(report.gallery, paths[-1])
    return paths


def bounded(report: Report) -> list[tuple[Leakage, float]]:
    """The success rates that the guarantee bounds, those that ask about single records, with their bounds."""
    return [
        (line, line.bound)
        for line in report.leakage
        if line.bound is not None and line.metric not in NO_RATE and defences.shown(line)
    ]


def figures(report: Report) -> list[Figure]:
    """The figures that this report has data for; none shows a training record."""
    wanted: list[tuple[Callable[[Report], Figure], bool]] = [
        (attacks, bool(bounded(report))),
        (tradeoff, bool(report.tradeoff)),
        (utility, True),
        (epsilon, bool(report.epsilon_by_step)),
        (queries, bool(report.queries)),
        (cost_figure, len(report.costs) > 1),
        (calibration, report.utility.calibration is not None),
    ]
    return [draw(report) for draw, there in wanted if there]


def epsilon(report: Report) -> Figure:
    """What had been spent after each step."""
    curve, void = report.epsilon_by_step, report.guarantee.void
    steps, spent = curve[-1]
    panel = Panel(x=(0, steps), y=(0, 1.15 * max(value for _, value in curve)))
    panel.area(curve, 0.0, "fill release")
    panel.axes("training step", "ε spent so far")
    panel.curve(curve, "line release")
    panel.dot((steps, spent), "mark release")
    title = "The guarantee is void"
    if void:
        panel.void_mark()
    else:
        place = panel.across(steps) - 10, panel.down(spent) - 10
        panel.text(place, f"ε = {words.epsilon(spent)}", "name release", anchor="end")
        at = f"at δ = {words.delta(report.guarantee.delta)}, per {report.guarantee.unit}"
        told = f"{words.how_many(steps, 'step')} spend{'s' if steps == 1 else ''}"
        title = f"{told} ε = {words.epsilon(spent)} {at}"
    return Figure(
        name="epsilon",
        title=title,
        caption=CAPTIONS["epsilon"],
        summary="The guarantee is void, so this curve means nothing."
        if void
        else f"The curve rises from 0 to ε = {words.epsilon(spent)} after {words.how_many(steps, 'step')}, "
        "fastest in the beginning.",
        panel=panel,
    )


def utility(report: Report) -> Figure:
    """Accuracy on the way and in the end, between the baseline and the control model."""
    test, floor, curve = report.utility.accuracy, report.floor_accuracy, report.holdout_by_step
    last = max((step for step, _, _ in curve), default=1)
    lowest = min(0.0, floor, test.low if test.low > -1 else test.value, *(value for _, value, _ in curve))
    panel = Panel(x=(0, 1.08 * last), y=(max(-1.0, lowest), 1), right=118)
    metric, blind = words.named(report.utility.metric), "predicting the same of all records"
    of_classes = report.utility.metric == "accuracy"
    value_of: Callable[[float], str] = words.percent if of_classes else words.number
    if of_classes:
        blind = "always naming the most frequent class"
    labels = [(test.value, "release", f"test\n{words.number(test.value)}")]
    title = f"Test {metric} {value_of(test.value)}"
    summary = f"Test {metric} is {spelt(test)}; the baseline, {blind}, {floor:.3f}."
    ends = panel.left, WIDTH - panel.right
    if report.control is not None:
        control = report.control.accuracy
        top = panel.down(control.high)
        panel.box((ends[0], top), (ends[1] - ends[0], panel.down(control.low) - top), "fill control")
        panel.segment(
            (ends[0], panel.down(control.value)), (ends[1], panel.down(control.value)), "line control dashed"
        )
        labels.append((control.value, "control", f"control model\n{words.number(control.value)}"))
        summary += f" The control model reaches {spelt(control)}."
        title += f"; of the control model {value_of(control.value)}"
    panel.axes("training step" if curve else "after training", metric)
    panel.segment((ends[0], panel.down(floor)), (ends[1], panel.down(floor)), "line floor dotted")
    labels.append((floor, "floor", f"baseline\n{words.number(floor)}"))
    if curve:
        panel.curve([(step, accuracy) for step, accuracy, _ in curve], "line release")
        summary += f" On held-out records it went from {curve[0][1]:.3f} to {curve[-1][1]:.3f}."
    at = panel.across(1.05 * last)
    panel.segment((at, panel.down(test.low)), (at, panel.down(test.high)), "line release")
    panel.dot((1.05 * last, test.value), "mark release")
    panel.labels(labels)
    return Figure(
        name="utility",
        title=title,
        caption="The line: held-out records, during training. The dot: test records in the end, with their "
        "interval.",
        summary=summary,
        panel=panel,
    )


def attacks(report: Report) -> Figure:
    """One row an attack on single records: release and control with intervals, baseline and bound."""
    lines, void = bounded(report), bool(report.guarantee.void)
    panel = Panel(x=(0, 1), y=(0, 1), left=10, right=14, top=0, height=ROW * len(lines) + 56, bottom=0)
    for row, (line, bound) in enumerate(lines):
        _track(panel, readable(line), None if void else bound, top=float(ROW * row))
    under = float(ROW * len(lines))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = {0.0: "start", 1.0: "end"}.get(tick, "middle")
        panel.text((panel.across(tick), under + 8), words.percent(tick), "tick", anchor=anchor)
    control = any(line.control is not None for line, _ in lines)
    _legend(panel, under + 40, bound=not void, control=control)
    described = []
    for line, bound in lines:
        named = readable(line)
        shown = digits(line)
        text = f"{named.attack}, {named.metric}: {spelt(line.value, shown)}, "
        text += f"baseline {words.number(line.floor, shown)}"
        text += "" if line.control is None else f", control {line.control.value:.3f}"
        described.append(
            text if void else f"{text}, bound {words.at_most(bound, shown)}{compatible(line.value, bound)}"
        )
    return Figure(
        name="attacks",
        title=_best_of(report, lines),
        caption="Success rates, with intervals."
        + ("" if void else " Shaded: true rates that the guarantee rules out."),
        summary=". ".join(described) + ".",
        panel=panel,
    )


def _best_of(report: Report, lines: list[tuple[Leakage, float]]) -> str:
    """The best attack on single records, of these lines and bounds, and what is proved about it."""
    best, bound = max(lines, key=lambda pair: pair[0].value.value - pair[0].floor)
    void = report.guarantee.void
    if any(line.value.low > bound for line, bound in lines) and not void:
        return "An attack exceeds its bound: the guarantee is broken"
    chance = "" if void else compatible(best.value, bound)
    ends = f" [{percent_down(best.value.low)}, {percent_up(best.value.high)}]" if chance else ""
    finding = f"Best attack on single records: {words.percent(best.value.value)}{ends}{chance}"
    if words.is_private(report.guarantee) and not void:
        return f"{finding}; no attack's true rate can exceed {words.percent_at_most(bound)}"
    return f"{finding}; and nothing is proved"


def tradeoff(report: Report) -> Figure:
    """The most true positives of any membership test against its false positives."""
    curve = [point for point in report.tradeoff if point[0] >= SMALLEST_FPR]
    ends = (SMALLEST_FPR, 1.0)
    panel = Panel(x=ends, y=ends, log_x=True, log_y=True, height=360, left=66, right=26)
    void, place = report.guarantee.void, report.guarantee.tpr_at_fpr["0.01"]
    most = f"no test identifies more than {words.percent_at_most(place)} of the members"
    if not void:
        panel.area(curve, 1.0, "fill beyond")
    panel.axes("false-positive rate", "true-positive rate", name=words.percent)
    panel.curve([(SMALLEST_FPR, SMALLEST_FPR), (1.0, 1.0)], "line floor dotted")
    panel.curve(curve, "line release")
    panel.dot((0.01, place), "mark release")
    panel.text((panel.across(0.03), panel.down(0.03) + 26), "guessing", "name floor")
    if void:
        panel.void_mark()
    else:
        panel.text((panel.left + 12, panel.top + 22), "impossible", "name quiet")
        beside = panel.across(0.01) - 9, panel.down(place) - 7
        panel.text(beside, f"at most {words.percent_at_most(place)}", "name release", anchor="end")
    return Figure(
        name="tradeoff",
        title="The guarantee is void: this curve bounds nothing"
        if void
        else f"At a 1 % false-positive rate, {most}",
        caption="The most that any membership test can do.",
        summary="The guarantee is void, so this curve bounds nothing."
        if void
        else f"At a 1 % false-positive rate, {most}; guessing identifies 1 %.",
        panel=panel,
    )


def queries(report: Report) -> Figure:
    """How often class inversions by query are recognised, against the queries spent on them."""
    spent = [point[0] for curve in report.queries.values() for point in curve]
    panel = Panel(x=(min(spent), max(max(spent), min(spent) + 1)), y=(0, 1), log_x=True, right=118)
    panel.axes("queries spent, over all classes", "share recognised")
    labels, described = [], []
    for (attack, curve), dash in zip(
        report.queries.items(), ("", " dashed", " dotted", " mixed"), strict=False
    ):
        name = attack.removeprefix("class_inversion_").replace("_", " ")
        for place, style, whose in ((1, "release", "release"), (2, "control", "control")):
            found = [(float(point[0]), point[place]) for point in curve]
            points = [(at, share) for at, share in found if share is not None]
            if points:
                panel.curve(points, f"line {style}{dash}")
                last = words.number(points[-1][1])
                labels.append((points[-1][1], style, f"{name},\n{whose} {last}"))
                described.append(f"{name}, {whose}: {last} after {points[-1][0]:,.0f} queries")
    panel.labels(labels)
    return Figure(
        name="queries",
        title=f"{max(spent):,} queries: inversions recognised by another model",
        caption=CAPTIONS["queries"],
        summary=". ".join(described) + ".",
        panel=panel,
    )


def spelt(value: Interval, digits: int = 3) -> str:
    """A value and its interval, in words: 0.625 (0.406 to 0.812)."""
    low, high = words.low_end(value.low, digits), words.high_end(value.high, digits)
    return f"{words.centre(value, digits)} ({low} to {high})"


def _track(panel: Panel, line: Leakage, bound: float | None, *, top: float) -> None:
    """One attack: what it was able to do, on a track from 0 to 100 %."""
    panel.text((panel.left, top + 14), line.attack, "name")
    panel.text((WIDTH - panel.right, top + 14), line.metric, "name quiet", anchor="end")
    bar, right = top + 22, WIDTH - panel.right
    panel.box((panel.left, bar), (right - panel.left, BAR), "track")
    if bound is not None:
        at = panel.across(bound)
        panel.box((at, bar), (right - at, BAR), "fill beyond")
        panel.segment((at, bar - 3), (at, bar + BAR + 3), "line bound")
    at = panel.across(line.floor)
    panel.segment((at, bar - 3), (at, bar + BAR + 3), "line floor")
    for value, style, middle in ((line.value, "release", bar + 8), (line.control, "control", bar + 17)):
        if value is not None:
            panel.segment(
                (panel.across(value.low), middle), (panel.across(value.high), middle), f"line {style}"
            )
            panel.mark((panel.across(value.value), middle), style)


def _legend(panel: Panel, height: float, *, bound: bool, control: bool) -> None:
    entries = [("release", True), ("control", control), ("floor", True), ("bound", bound)]
    at = float(panel.left + 6)
    for style, there in entries:
        if there:
            name = {"control": "control model", "floor": "baseline"}.get(style, style)
            if style in ("release", "control"):
                panel.mark((at, height - 4), style)
            else:
                panel.segment((at, height - 11), (at, height + 3), f"line {style}")
            panel.text((at + 11, height), name, "tick")
            at += 42 + 6.4 * len(name)
