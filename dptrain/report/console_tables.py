"""The tables of the terminal: the plan, the results, the output defences, the checks of a release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dptrain.contracts import Briefing, Estimate, Interval, Leakage, Report, Utility
from dptrain.evidence.verdict import ABOVE, BROKEN, LEAKS, NOT_SHOWN, RESISTED, kind
from dptrain.report import costs, counts, defences, learned, words
from dptrain.report.leakage_words import digits, named
from dptrain.report.tables import has_auroc

TONE = {
    LEAKS: "yellow",
    ABOVE: "bold yellow",
    BROKEN: "bold red",
    RESISTED: "green",
    NOT_SHOWN: "bold yellow",
}
MARKS = {True: ("holds", "green"), False: ("DOES NOT MATCH", "bold red"), None: ("open", "dim")}


def plan(briefing: Briefing) -> Iterator[tuple[str, str | Text]]:
    """The rows of the plan: name and text."""
    plan = briefing.plan
    if plan is None:
        yield "guarantee", Text(words.NOT_PRIVATE, style="yellow")
    else:
        yield (
            "guarantee",
            Text.assemble(
                (f"ε = {words.epsilon(briefing.epsilon)}", "bold cyan"),
                f" at δ = {words.delta(briefing.delta)}, per {briefing.unit}",
            ),
        )
        yield "", f"one {briefing.unit} {words.ADJACENCY[plan.adjacency]}"
        yield from plan.describe()
    yield "", ""
    yield "data", briefing.data
    yield "records", counts.row(briefing.counts)
    if briefing.copies:
        yield "warning", briefing.copies
    where = (
        briefing.device if briefing.processes == 1 else f"{briefing.device}, {briefing.processes} processes"
    )
    yield "model", f"{briefing.model}, {briefing.parameters:,} parameters, on {where}"
    if briefing.signal is not None and (warning := learned.noise(briefing.signal)):
        yield "warning", Text(warning, style="yellow")
    if briefing.features:
        yield "", f"its frozen features are made anew at each step: {briefing.features}"
    yield "attacks", "\n".join(briefing.attacks) if briefing.attacks else "none"
    for reason, of in groupby(briefing.not_run, lambda each: each.reason):
        yield "not run", f"{', '.join(each.attack for each in of)}: {reason}"
    yield from (("fewer", text) for text in counts.scaled(briefing.scaled))
    yield "", ""
    yield "time", estimated(briefing.estimate)
    yield "folder", near(briefing.folder)


def estimated(estimate: Estimate | None) -> str:
    """How long a run will take, and each part of it."""
    if estimate is None:
        return "unknown"
    named = [f"{name} {words.duration(seconds)}" for name, seconds in estimate.parts.items() if seconds]
    return f"about {words.duration(estimate.total)}: {', '.join(named)}"


def results(report: Report, *, wide: bool) -> Table:
    """Utility, guarantee and leakage under the same heads.

    A narrow table has the verdict below the name and leaves the control's interval to report.md.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, expand=True)
    table.add_column("", ratio=1, overflow="fold")
    for head in ("measured", "baseline", "control", "bound", "limit"):
        table.add_column(head, justify="right", no_wrap=True)
    if wide:
        table.add_column("verdict", max_width=24)
    parts = {"UTILITY": _utility(report), "GUARANTEE": _guarantee(report), "LEAKAGE": _leakage(report)}
    for number, (title, rows) in enumerate((title, rows) for title, rows in parts.items() if rows):
        if number:
            table.add_row()
        table.add_row(Text(title, style="bold cyan"))
        for row in rows:
            table.add_row(*row.cells(wide=wide))
    return table


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the results; what is None is left empty."""

    name: str
    detail: str = ""
    measured: RenderableType = ""
    floor: float | None = None
    control: Interval | float | None = None
    bound: RenderableType = ""
    limit: float | None = None
    verdict: Text | None = None
    digits: int = 3

    def cells(self, *, wide: bool) -> list[RenderableType]:
        """The cells, the verdict in one of its own where there is room."""
        lines: list[RenderableType] = [Text(self.name)]
        if self.detail:
            lines.append(Padding(Text(self.detail, style="dim"), (0, 0, 0, 2)))
        if self.verdict is not None and not wide:
            lines.append(Padding(self.verdict, (0, 0, 0, 2)))
        control = self.control
        if isinstance(control, Interval):
            centre = Text(words.centre(control, self.digits))
            shown = _measured(control, digits=self.digits) if wide else centre
        else:
            shown = _number(control)
        limit = Text("" if self.limit is None else words.low_end(self.limit, self.digits))
        cells = [self.measured, _number(self.floor, self.digits), shown, self.bound, limit]
        return [Group(*lines), *cells, *([self.verdict or ""] if wide else [])]


def _utility(report: Report) -> list[_Row]:
    utility, control = report.utility, report.control
    more = {} if control is None else control.more
    return [
        _Row(
            name=f"test {words.named(utility.metric)}",
            detail=f"{utility.records:,} records",
            measured=_measured(utility.accuracy, "bold"),
            floor=report.floor_accuracy,
            control=None if control is None else control.accuracy,
            verdict=Text("not shown to be above the baseline", style="yellow")
            if learned.no_better(report)
            else None,
        ),
        *(
            _Row(name=f"test {words.named(name)}", measured=_measured(found), control=more.get(name))
            for name, found in utility.more.items()
        ),
        *(
            [
                _Row(
                    name="AUROC",
                    measured=_measured(utility.auroc),
                    control=None if control is None else control.auroc,
                )
            ]
            if has_auroc(utility)
            else []
        ),
        _Row(name="loss", measured=_number(utility.loss), control=None if control is None else control.loss),
        *_calibration(utility, control),
        *_worst(report),
    ]


def _calibration(utility: Utility, control: Utility | None) -> Iterator[_Row]:
    if utility.calibration is not None:
        beside = None if control is None or control.calibration is None else control.calibration.error
        yield _Row(name="calibration error", measured=_measured(utility.calibration.error), control=beside)


def _worst(report: Report) -> Iterator[_Row]:
    """The class or subgroup for which the model does worst, and the one that privacy costs the most.

    Of several labels one label as well as one subgroup, for not the same is measured of them.
    """
    utility = report.utility
    control = {} if report.control is None else costs.parts(report.control)
    classes, subgroups = costs.of_each(utility), costs.of_subgroups(utility)
    for found in (classes, subgroups) if utility.scored else ({**classes, **subgroups},):
        if found:
            pick = max if utility.scores_are_errors else min
            worst = pick(found, key=lambda key: found[key].value)
            of = words.named(utility.scored) if found is subgroups else costs.measured_of_each(utility)
            yield _Row(
                name="worst for",
                detail=f"{costs.name(*worst)}, {of}" if utility.scored else costs.name(*worst),
                measured=_measured(found[worst]),
                control=control.get(worst),
            )
    if len(report.costs) > 1:
        most = max(report.costs[1:], key=lambda each: costs.lost(each.difference, utility).value)
        yield _Row(
            name="privacy costs most",
            detail=costs.name(most.by, most.name),
            measured=_measured(most.release),
            control=most.control,
            verdict=Text("worse than for the rest", style="yellow")
            if most in costs.more(report)
            else Text("not shown to be worse than for the rest"),
        )


def _guarantee(report: Report) -> list[_Row]:
    stated = report.guarantee
    epsilon = words.at_most(stated.epsilon) if words.is_private(stated) else "none"
    first = _Row(
        name=f"ε at δ = {words.delta(stated.delta)}, per {stated.unit}",
        floor=0.0,
        bound=_bound(epsilon, stated.void),
        verdict=_standing(report),
    )
    rates = [(float(rate), words.at_most(tpr)) for rate, tpr in stated.tpr_at_fpr.items()]
    return [first] + [
        _Row(name=f"membership TPR at FPR {words.percent(fpr)}", floor=fpr, bound=_bound(tpr, stated.void))
        for fpr, tpr in rates
    ]


def _leakage(report: Report) -> list[_Row]:
    void = report.guarantee.void
    return [
        _Row(
            name=line.attack,
            detail=_detail(line, void=void),
            measured=_measured(line.value, "bold", digits(line)),
            floor=line.floor,
            control=line.control,
            bound=Text(words.NO_BOUND, style="dim")
            if line.bound is None
            else _bound(words.at_most(line.bound, digits(line)), void),
            limit=line.detection_limit,
            verdict=Text(line.verdict, style=TONE.get(kind(line.verdict), "")),
            digits=digits(line),
        )
        for line in filter(defences.shown, report.leakage)
    ]


def output_defences(report: Report) -> Table | None:
    """What each form of output leaves to attacks by query; None where only one was tried."""
    names, rows = defences.table(report.leakage)
    if not rows:
        return None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
    table.add_column(Text("OUTPUT DEFENCES", style="bold cyan"), ratio=1, overflow="fold")
    for name in ("baseline", *names):
        table.add_column(Text(name.replace("_", " ")), justify="right")
    for name, floor, values in rows:
        table.add_row(name, _number(floor), *("" if v is None else _number(v.value) for v in values))
    return table


def checks(found: Sequence[tuple[str, bool | None, str]]) -> Table:
    """What was checked, whether it holds, and why."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column(Text("VERIFIED", style="bold cyan"), no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, holds, why in found:
        word, style = MARKS[holds]
        table.add_row(Text(name), Text(word, style=style), Text(why))
    return table


def _detail(line: Leakage, *, void: bool) -> str:
    """A line's metric, and what explains a value above its bound."""
    chance = not void and line.bound is not None and line.value.low <= line.bound < line.value.value
    return f"{named(line)}; compatible with its bound: the interval reaches below" if chance else named(line)


def _standing(report: Report) -> Text:
    """What may be said of the guarantee, in a word or two."""
    if report.guarantee.void:
        return Text("VOID", style="bold white on red")
    if not words.is_private(report.guarantee):
        return Text("nothing is proved", style="yellow")
    return Text("proved", style="green")


def _measured(value: Interval, style: str = "", digits: int = 3) -> Text:
    return Text.assemble((words.centre(value, digits), style), "\n", (words.interval(value, digits), "dim"))


def _bound(text: str, void: bool) -> Text:
    """A bound, unless it does not hold."""
    return Text("void", style="bold red") if void else Text(text, style="bold")


def _number(value: float | None, digits: int = 3) -> Text:
    return Text("" if value is None else words.number(value, digits))


def near(path: Path) -> str:
    """A path as seen from the current folder, where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
