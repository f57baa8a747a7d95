"""Numbers and states in words, the same on the console, in the documents and in the figures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dptrain.contracts import Interval, Statement
from dptrain.contracts.rounding import percent_up, rounded_up, rounded_up_to

NOT_PRIVATE = "none (not private)"
NO_BOUND = "no bound"
ADJACENCY = {"add_remove": "added or removed", "replace_one": "replaced by another"}


def number(value: float) -> str:
    """Three decimals for rates and other small numbers, as many digits for the rest.

    >>> number(0.125), number(41.62), number(float("inf"))
    ('0.125', '41.6', '∞')
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def plain(value: float) -> str:
    """A count as one, any other number as `number` has it.

    >>> plain(24.0), plain(0.5)
    ('24', '0.500')
    """
    return f"{value:,.0f}" if float(value).is_integer() else number(value)


def interval(value: Interval) -> str:
    """The ends of an interval: [0.406, 0.812]."""
    return f"[{number(value.low)}, {number(value.high)}]"


def measured(value: Interval) -> str:
    """A value and its interval: 0.625 [0.406, 0.812]."""
    return f"{number(value.value)} {interval(value)}"


def signed(value: float) -> str:
    """A number with its sign, a true minus.

    >>> signed(0.125), signed(-0.5), signed(-0.0001)
    ('+0.125', '−0.500', '0.000')
    """
    text = number(abs(value))
    return text if text == number(0.0) else f"{'+' if value > 0 else '−'}{text}"


def difference(value: Interval) -> str:
    """A difference and its interval: −0.041 [−0.060, −0.022]."""
    return f"{signed(value.value)} [{signed(value.low)}, {signed(value.high)}]"


def at_most(value: float) -> str:
    """A bound in as many digits as `number` gives, rounded up.

    >>> at_most(0.0578001), at_most(3.0), at_most(41.62)
    ('0.058', '3.000', '41.7')
    """
    if not math.isfinite(value):
        return number(value)
    return rounded_up(value, 3) if value < 10 else f"{float(rounded_up(value, 1)):,.1f}"


def bound(value: float | None) -> str:
    return NO_BOUND if value is None else at_most(value)


def percent(rate: float) -> str:
    """A rate in percent, to three digits at most.

    >>> percent(0.0742), percent(0.01), percent(0.00013)
    ('7.42 %', '1 %', '0.013 %')
    """
    return f"{100 * rate:.3g} %"


def percent_at_most(rate: float) -> str:
    """A bound on a rate in percent, to three digits at most, rounded up.

    >>> percent_at_most(0.0742), percent_at_most(0.0742001)
    ('7.42 %', '7.43 %')
    """
    return f"{percent_up(rate)} %"


def epsilon(value: float) -> str:
    """Two decimals, rounded up, or that there is none."""
    return NOT_PRIVATE if math.isinf(value) else rounded_up(value, 2)


def delta(value: float) -> str:
    """As many digits as it takes, six at most, rounded up.

    >>> delta(1e-5), delta(0.00012345678)
    ('1e-05', '0.000123457')
    """
    return rounded_up_to(value, 6)


def tied(text: str) -> str:
    """The same, no line broken between a number and its percent sign."""
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(4.2), duration(95), duration(7512)
    ('4.2 s', '1 min 35 s', '2 h 05 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def is_private(statement: Statement) -> bool:
    """Whether the statement promises anything at all, void or not."""
    return math.isfinite(statement.epsilon)


def budget(statement: Statement) -> str:
    """The guarantee in one line: ε = 3.00 at δ = 1e-05, per record."""
    if statement.void:
        return "VOID"
    if not is_private(statement):
        return NOT_PRIVATE
    at = f"at δ = {delta(statement.delta)}, per {statement.unit}"
    if statement.selection is not None:
        return (
            f"ε = {epsilon(statement.selection.epsilon)} {at}, if its search selected it "
            f"(this training by itself: ε = {epsilon(statement.epsilon)})"
        )
    return f"ε = {epsilon(statement.epsilon)} {at}"


def how_many(count: int, what: str) -> str:
    """How many of what: 1 attack, 1,200 attacks."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them, at least one.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def named(metric: str) -> str:
    """A measure's name in words: token accuracy, mean AUROC, R2."""
    return metric.replace("_", " ").replace("auroc", "AUROC").replace("r2", "R2")


def sentence_case(text: str) -> str:
    """A text that begins a line: Mean AUROC."""
    return text[:1].upper() + text[1:]
