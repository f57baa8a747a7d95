"""The sentences of a comparison, once for the page and for the console."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dptrain.evidence.break_even import break_even
from dptrain.evidence.repeats import FEWEST, Paired, Spread
from dptrain.report import words
from dptrain.report.comparison.points import UNDECIDED, VOID, Comparison, LimitOutcome, Point
from dptrain.report.leakage_words import readable_metric
from dptrain.report.selection import TEAM_ONLY

CONSERVATIVE = (
    "A measured quantity is held against its limit by the worse of two ends: of the interval over seeds, "
    "which holds what training does by chance, and of the runs' own intervals in the median, which hold "
    f"what finitely many test records or trials leave open. With fewer than {FEWEST} seeds it decides "
    "nothing, nor does it meet a limit where runs tell of no interval of their own. What is proved needs no "
    "seeds. A void guarantee meets no limit."
)
UNADJUSTED = (
    "Each p-value stands by itself: of twenty comparisons without a difference, one falls below 0.05 by "
    "chance."
)
NO_CEILING = (
    "Measured leakage is no ceiling: a better attack may find more. Only a bound is proved, and where there "
    "is none, no theorem limits the metric."
)


def ends(found: Spread) -> str:
    """A centre and its interval, or the values and why there is none.

    >>> from dptrain.evidence.repeats import spread
    >>> ends(spread([0.5, 0.7], 0.95))
    '0.500; 0.700 [no interval: 2 seeds]'
    """
    if found.interval is not None:
        return _tied(words.measured(found.interval))
    values = list(dict.fromkeys(map(words.number, found.values)))
    return f"{'; '.join(values)} [{found.method}]"


def difference(found: Paired) -> str:
    """A difference with its sign and its interval; of too few pairs nothing, for it would rank by chance."""
    spread = found.difference
    if found.pairs < FEWEST:
        return f"not judged [{spread.method.replace('seed', 'pair')}]"
    if spread.interval is not None:
        return _tied(words.difference(spread.interval))
    each = "; ".join(dict.fromkeys(map(words.signed, spread.values)))
    return f"{each} [{spread.method.replace('seed', 'pair')}]"


def _tied(interval: str) -> str:
    """An interval that no line break parts."""
    return interval.replace(", ", ",\u00a0")


def p_value(found: Paired) -> str:
    """The p-value, or why there is none."""
    if found.p_value is None:
        return "none"
    return "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"


def metric_name(attack: str, metric: str, interface: str = "", fpr: float | None = None) -> str:
    """An attack and its metric as a person says them; `fpr`: the false-positive rate that bounds hold at."""
    named = readable_metric(metric, fpr)
    met = f" ({interface.replace('_', ' ')})" if interface not in ("", "confidences") else ""
    return f"{attack.replace('_', ' ')}: {named}{met}"


def epsilon(point: Point) -> str:
    """What is proved of each model of a point."""
    if point.status == VOID:
        return "void"
    return "∞ (not private)" if math.isinf(point.epsilon) else words.epsilon(point.epsilon)


def membership(point: Point) -> str:
    """The bound on membership tests."""
    if point.status == VOID:
        return "void"
    if point.membership_bound is None:
        return "not recorded"
    return "none (not private)" if not point.private else words.percent_at_most(point.membership_bound)


def outcome(found: LimitOutcome) -> str:
    """What came of a limit at a point, and the number that decided it."""
    if found.used is None or found.outcome == UNDECIDED or found.basis == "the guarantee is void":
        return f"{found.outcome} [{found.basis}]"
    at_most = "<" in found.limit  # then an upper end or a bound decided, and is not told smaller than it is
    used = words.at_most(found.used) if at_most else words.low_end(found.used)
    return f"{found.outcome}: {used} [{found.basis}]"


def lead(comparison: Comparison) -> str:
    """The verdict: which points meet the limits, or that no limit was given."""
    if comparison.cost.selected is not None:
        return TEAM_ONLY if comparison.answer is None else f"{TEAM_ONLY} {comparison.answer.sentence}"
    if comparison.answer is not None:
        return comparison.answer.sentence
    return (
        "No limits were given, so none of these is chosen. Say what must hold, such as "
        f"`--limit '{comparison.metric}>=0.85' --limit 'membership.bound<=0.1'`, and this page says which ε "
        "meets it."
    )


def overview(comparison: Comparison) -> Iterator[str]:
    """What the points say together, in a few sentences."""
    proved = [point for point in comparison.points if point.private]
    if ranked := list(_ranked(proved, comparison.metric)):
        yield from ranked
    elif len(proved) > 1:
        first, last = min(proved, key=lambda p: p.epsilon), max(proved, key=lambda p: p.epsilon)
        control = last.control_accuracy
        beside = "" if control is None or control.interval is None else f"; its control model {ends(control)}"
        yield (
            f"{words.sentence_case(words.named(comparison.metric))} is {ends(first.accuracy)} at "
            f"**{first.label}** and {ends(last.accuracy)} at "
            f"**{last.label}**{beside}."
        )
        if None not in (first.membership_bound, last.membership_bound):
            yield (
                "At a 1 % false-positive rate, no membership test identifies more than "
                f"{membership(first)} of the training {comparison.unit}s at {first.label}, and "
                f"{membership(last)} at {last.label}."
            )
    few = [point.label for point in comparison.points if len(point.seeds) < FEWEST and point.status != VOID]
    if few:
        yield (
            f"**Fewer than {FEWEST} seeds: {_listed(few)}.** The values are shown, and nothing is "
            "inferred from them: how far another seed would lie is not known."
        )
    if comparison.missing:
        number = len(comparison.missing)
        yield f"{number} of the runs {'is' if number == 1 else 'are'} missing, and listed at the end."


def _ranked(points: Sequence[Point], metric: str) -> Iterator[str]:
    """At each budget that several series share, which of them does best, and whether it is told apart."""
    budgets: dict[str, list[Point]] = {}
    for point in points:
        spent = point.label.removesuffix(point.series).removesuffix(", ")
        if point.accuracy.interval is not None:
            budgets.setdefault(spent, []).append(point)
    for spent, alike in budgets.items():
        if len(alike) < 2:
            continue
        best, second = sorted(alike, key=lambda point: point.accuracy.centre, reverse=True)[:2]
        ahead, behind = best.accuracy.interval, second.accuracy.interval
        assert ahead is not None
        assert behind is not None
        apart = "apart from each other" if ahead.low > behind.high else "not told apart by these seeds"
        yield (
            f"At **{spent}** {words.named(metric)} is highest with **{best.series}**, {ends(best.accuracy)}; "
            f"then comes {second.series}, {ends(second.accuracy)}: {apart}."
        )
        models = [point for point in (best, *alike) if not point.by_answers]
        for point in alike:
            if point.by_answers and models:
                flat = max(models, key=lambda model: model.accuracy.centre)
                even = break_even(point.by_answers, flat.accuracy.centre)
                yield (
                    f"{point.series} gives {max(point.by_answers):,} answers and no model. As good as "
                    f"{flat.series}, which answers for ever, it would be for {even} answers (break-even)."
                )


def void(comparison: Comparison) -> Iterator[str]:
    """The points whose guarantee does not hold."""
    for point in comparison.points:
        if point.status == VOID:
            yield f"**VOID: {point.label}.** {point.void_reason}. It proves nothing, and no figure shows it."


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def composed(comparison: Comparison) -> str:
    """Epsilon of all models together."""
    together = comparison.cost.together
    return "not known" if together is None else f"ε = {words.epsilon(together)}"


def methods(comparison: Comparison) -> Iterator[str]:
    """How the intervals of this page were made."""
    found = {point.accuracy.method for point in comparison.points}
    found |= {line.measured.method for point in comparison.points for line in point.lines}
    level = f"{comparison.confidence:.0%}"
    if any("distribution-free" in method for method in found):
        yield (
            f"**{level} interval of the median over seeds**, between two order statistics: it needs no "
            "assumption about how the values are distributed. Differences are judged by the sign test."
        )
    if any("t interval" in method for method in found):
        yield (
            f"**{level} interval of the mean over seeds**, by Student's t, which takes the values to be "
            "normal; so few seeds allow no interval without an assumption. Differences are judged by the "
            "paired t test."
        )
    if any(method.startswith("no interval") for method in found):
        yield f"**No interval** where there are fewer than {FEWEST} seeds, or where all agree."
    yield (
        "Runs of one seed share data, split and initial weights, so they are compared in pairs; noise and "
        "batches are secret and differ."
    )
    yield UNADJUSTED
    yield (
        "Where seeds share their test records, an interval over seeds does not hold what other test records "
        "would say; the runs' own intervals do."
    )
