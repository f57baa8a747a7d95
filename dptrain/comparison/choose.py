"""Which points meet these limits, by the conservative end of every interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dptrain.contracts import ConfigError
from dptrain.evidence import criteria
from dptrain.evidence.criteria import OPERATORS, Condition
from dptrain.evidence.repeats import FEWEST, Spread
from dptrain.report import words
from dptrain.report.comparison.points import (
    MET,
    NOT_MET,
    UNDECIDED,
    VOID,
    Answer,
    Comparison,
    LimitOutcome,
    Line,
    Point,
)

PROVED = ("epsilon", "delta", "membership.bound")  # hold for every run alike, however few
NOT_MEASURED = "not measured here"
NO_INTERVAL = "the runs tell of no interval of their own"


def parse(texts: Sequence[str], comparison: Comparison) -> tuple[Condition, ...]:
    """The limits: `fail_if`'s grammar, of what must be; raises one ConfigError for all that are wrong."""
    attacks = list(dict.fromkeys(line.attack for point in comparison.points for line in point.lines))
    with_auroc = any(point.auroc is not None for point in comparison.points)
    measured = dict.fromkeys([comparison.metric, *(["auroc"] if with_auroc else [])])
    conditions = criteria.parse(texts, attacks, measured=measured, key="--limit")
    problems = [
        f"--limit: {each.text!r} must end in a number, such as {each.quantity}<=0.1; or leave it out"
        for each in conditions
        if each.limit in criteria.FIELDS
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return conditions


def choose(conditions: Sequence[Condition], comparison: Comparison) -> Answer:
    """Which points meet all of these, the smallest epsilon first.

    A measured quantity counts by the worse of two ends: of the interval over seeds, and of the runs'
    own intervals in the median; where runs tell of none, it meets no limit, for seeds alone do not say what
    other test records would. With fewer than three seeds it decides nothing. What a void guarantee proves
    is nothing, so that such a point meets no limit.
    """
    judged = tuple(
        judge(each, point, comparison.metric) for each in conditions for point in comparison.points
    )
    outcomes = {
        point.label: [each.outcome for each in judged if each.point == point.label]
        for point in comparison.points
    }
    ordered = sorted(comparison.points, key=lambda point: (point.epsilon, -point.accuracy.centre))
    met = tuple(point.label for point in ordered if set(outcomes[point.label]) == {MET})
    return Answer(
        limits=tuple(each.text for each in conditions),
        judged=judged,
        met=met,
        sentence=_sentence(conditions, judged, met),
    )


def judge(condition: Condition, point: Point, metric: str = "accuracy") -> LimitOutcome:
    """One limit at one point; `metric` is what the points' accuracy stands for."""
    held = _used(condition, point, metric)
    used, basis = held.used, held.basis
    proved = condition.quantity in PROVED or condition.quantity.endswith((".bound", ".floor"))
    limit = float(condition.limit)
    if point.status == VOID:
        outcome, basis = NOT_MET, "the guarantee is void"
    elif used is None:
        outcome = UNDECIDED if basis == NOT_MEASURED else NOT_MET
    elif not proved and held.seeds < FEWEST:
        outcome, basis = UNDECIDED, f"{held.seeds} seed{'s' if held.seeds > 1 else ''}: {FEWEST} are needed"
    elif not OPERATORS[condition.compare](used, limit):
        outcome = NOT_MET
    elif not held.whole:
        outcome, basis = UNDECIDED, NO_INTERVAL
    else:
        outcome = MET
    return LimitOutcome(limit=condition.text, point=point.label, used=used, basis=basis, outcome=outcome)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """The number that a limit is held against, where it comes from, and over how many seeds.

    Not `whole`: the runs tell of no interval of their own, so that the number may be too good.
    """

    used: float | None
    basis: str
    seeds: int = 0
    whole: bool = True


def _used(condition: Condition, point: Point, measured: str) -> _Held:
    """What a limit is held against."""
    upper = condition.compare.startswith("<")
    if condition.quantity == "epsilon":
        return _Held(used=point.epsilon, basis="proved")
    if condition.quantity == "delta":
        return _Held(used=point.delta, basis="proved")
    if condition.quantity == "membership.bound":
        bound = point.membership_bound
        return _Held(used=bound, basis=NOT_MEASURED if bound is None else "proved")
    if condition.quantity == measured:
        return _measured(point.accuracy, point.accuracy_ends, upper=upper)
    if condition.quantity == "auroc":
        return _measured(point.auroc, point.auroc_ends, upper=upper)
    attack, metric, field = condition.parts()
    lines = [
        line for line in point.lines if criteria.named(line.attack, attack) and _meant(line, metric, point)
    ]
    found = [_of_line(line, field, upper=upper) for line in lines]
    if unknown := [each for each in found if each.used is None]:
        return unknown[0]
    ordered = sorted(found, key=lambda each: each.used or 0.0, reverse=upper)
    if not ordered:
        return _Held(used=None, basis=NOT_MEASURED)
    return replace(ordered[0], whole=all(each.whole for each in found))


def _meant(line: Line, metric: str, point: Point) -> bool:
    """Whether a metric, named with its interface or without, is this line's, as in `fail_if`."""
    given_away = ("", criteria.OPEN if point.interface == "weights" else point.interface)
    if metric == f"{line.metric}.{line.interface}":
        return True
    return metric in ("", line.metric) and line.interface in given_away


def _of_line(line: Line, field: str, *, upper: bool) -> _Held:
    """One field of a leakage line: a bound or floor as it is, an end as asked, a value by its worse end."""
    seeds = len(line.measured.values)
    if field == "bound":
        basis = words.NO_BOUND if line.bound is None else "proved"
        return _Held(used=line.bound, basis=basis, seeds=seeds)
    if field == "floor":
        return _Held(used=line.floor, basis="floor", seeds=seeds)
    if field == "control":
        return _measured(line.control, line.control_ends, upper=upper)
    if line.low is None and field == "value":
        return _measured(line.measured, None, upper=upper)
    low = -math.inf if line.low is None else line.low
    high = math.inf if line.high is None else line.high
    if field != "value":
        return _measured(line.measured, (low, high), upper=field == "high")
    if line.high is None:  # a one-sided certificate: its seeds alone say how high it may be
        high = line.measured.centre
    return _measured(line.measured, (low, high), upper=upper)


def _measured(found: Spread | None, own: tuple[float, float] | None, *, upper: bool) -> _Held:
    """The worse of the two ends, which it was, and over how many seeds."""
    if found is None:
        return _Held(used=None, basis=NOT_MEASURED)
    if found.interval is None:
        ends = [((max if upper else min)(found.values), "the worst seed")]
    else:
        ends = [(found.interval.high if upper else found.interval.low, "interval over seeds")]
    if own is not None:
        ends.append((own[1] if upper else own[0], "the runs' own intervals"))
    value, basis = (max if upper else min)(ends, key=lambda end: end[0])
    return _Held(used=value, basis=basis, seeds=len(found.values), whole=own is not None)


def _sentence(conditions: Sequence[Condition], judged: Sequence[LimitOutcome], met: Sequence[str]) -> str:
    """The answer in plain words."""
    if met:
        others = f" So {'do' if len(met) > 2 else 'does'} {', '.join(met[1:])}." if met[1:] else ""
        all_of = "meets the limit" if len(conditions) == 1 else "meets every limit"
        return f"{met[0]} {all_of}{', at the smallest ε of those that do' if others else ''}.{others}"
    impossible = [
        each.text
        for each in conditions
        if all(one.outcome != MET for one in judged if one.limit == each.text)
    ]
    text = "No point meets " + ("the limit" if len(conditions) == 1 else "every limit") + "."
    if impossible:
        text += f" {' and '.join(impossible)}: met by none."
    else:
        text += " Each limit is met somewhere, but nowhere all of them."
    undecided = sorted({one.point for one in judged if one.outcome == UNDECIDED})
    return text + (f" Undecided: {', '.join(undecided)}." if undecided else "")
