"""Differences between two models on the same records, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.stats import binom, norm

from dptrain.contracts import Interval


def paired_proportions(gained: float, lost: float, trials: float, confidence: float) -> Interval:
    """The difference of two proportions of the same trials, with its score interval (Tango 1998).

    `gained` are the trials in which the first alone succeeds, `lost` those in which the second alone does;
    none of them need be whole, such as an effective number of trials.

    >>> found = paired_proportions(1, 5, 24, 0.95)
    >>> round(found.low, 3), round(found.high, 3)
    (-0.377, 0.042)
    """
    value, reach = (gained - lost) / trials, float(norm.ppf((1 + confidence) / 2))
    apart = 1e-9  # from the value itself, at which both ends may meet: where the two never differ

    def beyond(sign: float) -> Callable[[float], float]:
        def distance(true: float) -> float:
            linear = (2 * trials - gained + lost) * true - gained - lost
            # Near -1, of a difference of -1, what is under the root is nothing, give or take rounding.
            root = math.sqrt(max(0.0, linear**2 + 8 * trials * lost * true * (1 - true)))
            second = (root - linear) / (4 * trials)  # the likeliest share of `lost`, were this the difference
            spread = math.sqrt(max(0.0, trials * (2 * second + true * (1 - true))))
            return gained - lost - trials * true - sign * reach * spread

        return distance

    return Interval(
        value=value,
        low=-1.0 if value - apart <= -1 else float(brentq(beyond(1.0), -1.0, value - apart)),
        high=1.0 if value + apart >= 1 else float(brentq(beyond(-1.0), value + apart, 1.0)),
    )


def mcnemar(gained: int, lost: int) -> float:
    """The exact one-sided p-value of the first being no likelier to succeed than the second (McNemar 1947).

    Given on how many trials just one of them succeeds, each is the first's with probability one half at most.

    >>> mcnemar(5, 0), mcnemar(0, 0)
    (0.03125, 1.0)
    """
    return float(binom.sf(gained - 1, gained + lost, 0.5))


def difference(first: Interval, second: Interval) -> Interval:
    """First minus second of two independent estimates, from their intervals (Zou and Donner 2008)."""
    value = first.value - second.value
    return Interval(
        value=value,
        low=value - math.hypot(first.value - first.low, second.high - second.value),
        high=value + math.hypot(first.high - first.value, second.value - second.low),
    )
