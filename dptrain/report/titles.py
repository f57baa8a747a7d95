"""The title of each figure: its finding."""

from __future__ import annotations

from dptrain.contracts import Leakage, Report
from dptrain.report import words
from dptrain.report.leakage_words import compatible


def spent(report: Report) -> str:
    """What the steps cost; the report must have epsilon by step."""
    statement = report.guarantee
    if statement.void:
        return "The guarantee is void"
    steps, epsilon = report.epsilon_by_step[-1]
    at = f"at δ = {words.delta(statement.delta)}, per {statement.unit}"
    return f"{steps:,} steps spend ε = {words.epsilon(epsilon)} {at}"


def utility(report: Report) -> str:
    """Test accuracy, and what privacy took of it."""
    test = report.utility.accuracy.value
    title = f"Test accuracy {words.percent(test)}"
    if report.control is None:
        return title
    points = 100 * (test - report.control.accuracy.value)
    return f"{title}, {abs(points):.1f} points {'below' if points < 0 else 'above'} the non-private twin"


def attacks(report: Report, lines: list[tuple[Leakage, float]]) -> str:
    """The best attack on single records, of these lines and bounds, and what is proved about it."""
    best, bound = max(lines, key=lambda pair: pair[0].value.value - pair[0].floor)
    void = report.guarantee.void
    if any(line.value.low > bound for line, bound in lines) and not void:
        return "An attack exceeds its bound: the guarantee is broken"
    chance = "" if void else compatible(best.value, bound)
    ends = f" [{100 * best.value.low:.1f}, {100 * best.value.high:.1f}]" if chance else ""
    finding = f"Best attack on single records: {words.percent(best.value.value)}{ends}{chance}"
    if words.is_private(report.guarantee) and not void:
        return f"{finding}; no attack's true rate can exceed {words.percent_at_most(bound)}"
    return f"{finding}; and nothing is proved"


def tradeoff(report: Report) -> str:
    """What no membership test can do."""
    if report.guarantee.void:
        return "The guarantee is void: this curve bounds nothing"
    place = report.guarantee.tpr_at_fpr["0.01"]
    return f"At 1 % false alarms, no test finds more than {words.percent_at_most(place)} of the members"


def queries(report: Report) -> str:
    """How many queries were spent; the report must have curves by query."""
    most = max(curve[-1][0] for curve in report.queries.values())
    return f"{most:,} queries: inversions recognised by another model"
