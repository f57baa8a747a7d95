"""Figures of utility beyond accuracy: what privacy costs whom, and whether confidences are what they say."""

from __future__ import annotations

import math

from dptrain.contracts import Cost, Interval, Report
from dptrain.report import costs, words
from dptrain.report.figure import Figure
from dptrain.report.svg import WIDTH, Panel, ticks

ROW = 52  # height of a class or a subgroup
BAR = 24  # of its tracks
ROWS = 16  # that are drawn; the table has all
MIDDLE = 236  # where the tracks of the two models end
RIGHT = 262  # where those of the differences begin
APART = 40  # a tick nearer than this to another is not written


def cost_figure(report: Report) -> Figure:
    """One row a class or subgroup, the dearest first: both models, and release minus control."""
    everybody, *rest = report.costs
    paying = costs.more(report)
    others = sorted(
        (each for each in rest if each not in paying),
        key=lambda each: -costs.lost(each.difference, report.utility).value,
    )
    rows = [everybody, *paying, *others][:ROWS]
    under = float(ROW * len(rows))
    left = Panel(
        x=_range([end for each in rows for end in _ends(each.release, each.control)]),
        y=(0, 1),
        left=10,
        right=WIDTH - MIDDLE,
        height=ROW * len(rows) + 62,
    )
    right = Panel(
        x=_range([0.0, *(end for each in rows for end in _ends(each.difference))]),
        y=(0, 1),
        left=RIGHT,
        right=10,
        drawn=left.drawn,
    )
    for place, each in enumerate(rows):
        _row(left, right, each, top=float(ROW * place), worse=each in paying)
    for value, style in ((0.0, "line floor"), (everybody.difference.value, "line release dotted")):
        at = right.across(value)
        for place in range(len(rows)):
            bar = ROW * place + 20.0
            right.segment((at, bar - 2), (at, bar + BAR + 2), style)
    for place, each in enumerate(rows):
        _difference(right, each, middle=ROW * place + 20.0 + BAR / 2)
    for panel, name in ((left, "{:.15g}".format), (right, _signed_tick)):
        written: list[float] = []
        for value in sorted(ticks(panel.x, log=False), key=abs):  # zero before all others
            at = panel.across(value)
            if all(abs(at - other) >= APART for other in written):
                panel.text((at, under + 10), name(value), "tick", anchor="middle")
                written.append(at)
    metric = costs.measured_of_subgroups(report.utility)
    left.text((MIDDLE / 2, under + 30), metric, "label", anchor="middle")
    left.text(((RIGHT + WIDTH - 10) / 2, under + 30), "release − control", "label", anchor="middle")
    _legend(left, under + 52)
    described = [
        f"{costs.name(each.by, each.name)}, {words.how_many(each.records, 'record')}: release "
        f"{words.measured(each.release)}, control model {words.measured(each.control)}, difference "
        f"{words.difference(each.difference)}{', worse than for the rest' if each in paying else ''}"
        for each in rows
    ]
    hidden = len(report.costs) - len(rows)
    return Figure(
        name="costs",
        title=_title(paying),
        caption=f"{words.sentence_case(metric)} of both models, each interval by itself; release minus "
        "control on the same test records, with intervals that hold for all rows together. Dotted: all test "
        "records. Bold: worse than for all others, as the last column of the table tells."
        + (f" {hidden} more that cost less are in the table." if hidden else ""),
        summary=". ".join(described) + ".",
        panel=left,
    )


def _title(paying: list[Cost]) -> str:
    if not paying:
        return "What privacy costs whom: nobody is shown to fare worse than the rest"
    named = [costs.name(each.by, each.name) for each in paying[:2]]
    left = [f"{len(paying) - 2} more"] if len(paying) > 2 else []
    return f"What privacy costs whom: worse for {words.listed([*named, *left])} than for the rest"


def calibration(report: Report) -> Figure:
    """How often the named class is right, against the confidence in it."""
    found = report.utility.calibration
    assert found is not None, "the report has no calibration to draw"
    models = [("release", "release", found)]
    if report.control is not None and report.control.calibration is not None:
        models.append(("control", "control model", report.control.calibration))
    least = min(min(each.confidence, each.right.low) for _, _, model in models for each in model.bins)
    ends = math.floor(10 * min(least, 0.9)) / 10, 1.0
    panel = Panel(x=ends, y=ends, right=118, height=300)
    panel.axes("confidence in the named class", "share right")
    panel.curve([(ends[0], ends[0]), (1.0, 1.0)], "line floor dotted")
    for style, _, model in reversed(models):
        for each in model.bins:
            at = panel.across(each.confidence)
            panel.segment(
                (at, panel.down(each.right.low)), (at, panel.down(each.right.high)), f"thin {style}"
            )
            panel.mark((at, panel.down(each.right.value)), style)
    labels = ((style, f"{name}\noff by {words.number(m.error.value)}", m) for style, name, m in models)
    panel.labels([(model.bins[-1].right.value, style, text) for style, text, model in labels])
    described = [
        f"{name}: calibration error {words.measured(model.error)}; "
        + ", ".join(f"{each.right.value:.3f} right at {each.confidence:.3f}" for each in model.bins)
        for _, name, model in models
    ]
    return Figure(
        name="calibration",
        title=f"Confidence and share right differ by {words.number(found.error.value)} in the mean",
        caption=f"Test records in {len(found.bins)} bins of about as many each, by confidence; below the "
        "dotted line the model is surer than it is right.",
        summary=". ".join(described) + ".",
        panel=panel,
    )


def _row(left: Panel, right: Panel, each: Cost, *, top: float, worse: bool) -> None:
    """Name and tracks of a class or subgroup, and what both models reach."""
    text = f"{costs.name(each.by, each.name)} · {each.records:,}"
    left.text((left.left, top + 14), _short(text, 31), "name release" if worse else "name")
    said = words.difference(each.difference)
    left.text((WIDTH - right.right, top + 14), said, "name release" if worse else "name quiet", anchor="end")
    bar = top + 20
    for panel in (left, right):
        panel.box((panel.left, bar), (WIDTH - panel.right - panel.left, BAR), "track")
    for value, style, middle in ((each.release, "release", bar + 8), (each.control, "control", bar + 17)):
        left.segment((left.across(value.low), middle), (left.across(value.high), middle), f"thin {style}")
        left.mark((left.across(value.value), middle), style)


def _difference(panel: Panel, each: Cost, *, middle: float) -> None:
    low, value, high = (panel.across(getattr(each.difference, end)) for end in ("low", "value", "high"))
    panel.segment((low, middle), (high, middle), "thin bound")
    for end in (low, high):
        panel.segment((end, middle - 4), (end, middle + 4), "thin bound")
    panel.disc((value, middle), 4.5, "mark bound")


def _legend(panel: Panel, height: float) -> None:
    at = float(panel.left + 6)
    for style, name in (("release", "release"), ("control", "control model")):
        panel.mark((at, height - 4), style)
        panel.text((at + 11, height), name, "tick")
        at += 42 + 6.4 * len(name)


def _ends(*values: Interval) -> list[float]:
    return [end for value in values for end in (value.low, value.high)]


def _range(values: list[float]) -> tuple[float, float]:
    """The values, with room at both sides for marks."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05
    return low - room, high + room


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _signed_tick(value: float) -> str:
    return f"{value:+.15g}".replace("-", "−") if value else "0"
