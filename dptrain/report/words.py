"""Numbers and states in words, the same on the console, in the documents and in the figures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal

from dptrain.contracts import Interval, Statement
from dptrain.contracts.rounding import (
    percent_down,
    percent_up,
    rounded_down,
    rounded_up,
    rounded_up_to,
)

NOT_PRIVATE = "none (not private)"
NO_BOUND = "no bound"
SETTLED = 12  # decimals that the ends of intervals are computed to: what follows them is no end's
ADJACENCY = {"add_remove": "added or removed", "replace_one": "replaced by another"}


def number(value: float, digits: int = 3) -> str:
    """Three decimals, or as many as told, for rates and other small numbers, as many digits for the rest.

    >>> number(0.125), number(41.62), number(float("inf"))
    ('0.125', '41.6', '∞')
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:,.{digits - 2}f}"


def plain(value: float) -> str:
    """A count as one, any other number as `number` has it.

    >>> plain(24.0), plain(0.5)
    ('24', '0.500')
    """
    return f"{value:,.0f}" if float(value).is_integer() else number(value)


def low_end(value: float, digits: int = 3) -> str:
    """The lower end of an interval, or the most that is certified, rounded down.

    >>> low_end(0.50046), low_end(0.5), low_end(41.69), low_end(-0.1)
    ('0.500', '0.500', '41.6', '-0.100')
    """
    return at_least(round(value, SETTLED), digits)


def high_end(value: float, digits: int = 3) -> str:
    """The upper end of an interval, rounded up.

    >>> high_end(0.81201), high_end(0.1 + 0.2)
    ('0.813', '0.300')
    """
    return at_most(round(value, SETTLED), digits)


def interval(value: Interval, digits: int = 3) -> str:
    """The ends of an interval, rounded outwards.

    >>> interval(Interval(value=0.625, low=0.4059, high=0.8121))
    '[0.405, 0.813]'
    """
    return f"[{low_end(value.low, digits)}, {high_end(value.high, digits)}]"


def centre(value: Interval, digits: int = 3) -> str:
    """The value itself: an estimate, or, of an interval without an upper end, what is certified at least.

    >>> centre(Interval(value=1.4996, low=1.4996, high=float("inf")))
    '1.499'
    """
    return number(value.value, digits) if math.isfinite(value.high) else low_end(value.value, digits)


def measured(value: Interval, digits: int = 3) -> str:
    """A value and its interval: 0.625 [0.406, 0.812]."""
    return f"{centre(value, digits)} {interval(value, digits)}"


def signed(value: float) -> str:
    """A number with its sign, a true minus.

    >>> signed(0.125), signed(-0.5), signed(-0.0001)
    ('+0.125', '−0.500', '0.000')
    """
    return _with_sign(number(value))


def _with_sign(text: str) -> str:
    size = text.removeprefix("-")
    if size == number(0.0):
        return size
    return f"{'+' if size == text else '−'}{size}"


def signed_interval(value: Interval) -> str:
    """The ends of a difference, rounded outwards: [−0.060, −0.022]."""
    return f"[{_with_sign(low_end(value.low))}, {_with_sign(high_end(value.high))}]"


def difference(value: Interval) -> str:
    """A difference and its interval: −0.041 [−0.060, −0.022]."""
    return f"{signed(value.value)} {signed_interval(value)}"


def at_least(value: float, digits: int = 3) -> str:
    """A lower bound in as many digits as `number` gives, rounded down.

    >>> at_least(0.0579999), at_least(3.0), at_least(41.69)
    ('0.057', '3.000', '41.6')
    """
    if not math.isfinite(value):
        return number(value)
    if abs(value) < 10:
        return rounded_down(value, digits)
    return f"{Decimal(rounded_down(value, digits - 2)):,}"


def at_most(value: float, digits: int = 3) -> str:
    """A bound in as many digits as `number` gives, rounded up.

    >>> at_most(0.0578001), at_most(3.0), at_most(41.62)
    ('0.058', '3.000', '41.7')
    """
    if not math.isfinite(value):
        return number(value)
    if abs(value) < 10:
        return rounded_up(value, digits)
    return f"{Decimal(rounded_up(value, digits - 2)):,}"


def bound(value: float | None, digits: int = 3) -> str:
    return NO_BOUND if value is None else at_most(value, digits)


def percent(rate: float) -> str:
    """A rate in percent, to three digits at most.

    >>> percent(0.0742), percent(0.01), percent(0.00013)
    ('7.42 %', '1 %', '0.013 %')
    """
    return f"{100 * rate:.3g} %"


def percent_at_least(rate: float) -> str:
    """A lower bound on a rate in percent, to three digits at most, rounded down.

    >>> percent_at_least(0.0742), percent_at_least(0.0741999)
    ('7.42 %', '7.41 %')
    """
    return f"{percent_down(rate)} %"


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
