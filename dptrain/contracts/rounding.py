"""Bounds as text: whoever reads an upper one reads at least as much, whoever reads a lower one at most."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal, localcontext


def rounded_up(value: float, digits: int) -> str:
    """A bound with so many decimals, the last of them raised where the text would read as less.

    >>> rounded_up(3.0, 2), rounded_up(2.9961, 2), rounded_up(3.0001, 2)
    ('3.00', '3.00', '3.01')
    """
    text = f"{value:.{digits}f}"
    return _unsigned(_next(text) if float(text) < value else text)


def rounded_down(value: float, digits: int) -> str:
    """A lower bound with so many decimals, the rest of them left out where the text would read as more.

    >>> rounded_down(0.5, 3), rounded_down(0.1, 3), rounded_down(0.1239, 3), rounded_down(-0.0001, 3)
    ('0.500', '0.100', '0.123', '-0.001')
    """
    if not math.isfinite(value):
        return f"{value:.{digits}f}"
    return _unsigned(f"{_floored(Decimal(str(float(value))), -digits):.{digits}f}")


def rounded_up_to(value: float, figures: int) -> str:
    """A bound to so many significant figures, without zeros at the end, likewise.

    >>> rounded_up_to(1e-05, 3), rounded_up_to(0.00012341, 3), rounded_up_to(9.999, 3)
    ('1e-05', '0.000124', '10')
    """
    text = f"{value:.{figures}g}"
    return _next_figure(value, figures) if float(text) < value else text


def percent_up(rate: float, figures: int = 3) -> str:
    """A bound on a rate in percent, to so many significant figures, likewise.

    >>> percent_up(0.07), percent_up(0.070001), percent_up(0.06451)
    ('7', '7.01', '6.46')
    """
    text = f"{100 * rate:.{figures}g}"
    return _next_figure(100 * rate, figures) if float(text) / 100 < rate else text


def percent_down(rate: float, figures: int = 3) -> str:
    """A lower bound on a rate in percent, to so many significant figures, likewise.

    >>> percent_down(0.07), percent_down(0.069999), percent_down(0.99999), percent_down(0.0)
    ('7', '6.99', '99.9', '0')
    """
    percent = 100 * Decimal(str(float(rate)))
    if not percent:
        return "0"
    return f"{float(_floored(percent, percent.adjusted() + 1 - figures)):.{figures}g}"


def _floored(value: Decimal, place: int) -> Decimal:
    """The largest multiple of 10**place that is not above the value."""
    with localcontext(prec=400):  # of any float all digits
        return value.quantize(Decimal(1).scaleb(place), rounding=ROUND_FLOOR)


def _unsigned(text: str) -> str:
    """The same, of zero without a minus."""
    return text if float(text) else text.removeprefix("-")


def _next(text: str) -> str:
    """The next larger number with as many decimals; in whole numbers, for fractions would round."""
    whole, dot, decimals = text.partition(".")
    raised = int(whole + decimals) + 1
    sign, size = "-" if raised < 0 else "", f"{abs(raised):0{len(decimals) + 1}d}"
    return f"{sign}{size[: len(size) - len(decimals)]}{dot}{size[len(size) - len(decimals) :]}"


def _next_figure(value: float, figures: int) -> str:
    """The next larger number of as many significant figures."""
    mantissa, _, exponent = f"{value:.{figures - 1}e}".partition("e")
    raised = float(f"{_next(mantissa)}e{exponent}")
    return f"{raised:.{figures}g}"
