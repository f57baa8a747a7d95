"""Differences between two models on the same records, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.stats import norm

from dptrain.contracts import Interval


def paired_proportions(gained: int, lost: int, trials: int, confidence: float) -> Interval:
    """The difference of two proportions of the same trials, with its score interval (Tango 1998).

    `gained` are the trials in which the first alone succeeds, `lost` those in which the second alone does.

    >>> found = paired_proportions(1, 5, 24, 0.95)
    >>> round(found.low, 3), round(found.high, 3)
    (-0.377, 0.042)
    """
    value, reach = (gained - lost) / trials, float(norm.ppf((1 + confidence) / 2))
    apart = 1e-9  # from the value itself, at which both ends may meet: where the two never differ

    def beyond(sign: float) -> Callable[[float], float]:
        def distance(true: float) -> float:
            linear = (2 * trials - gained + lost) * true - gained - lost
            root = math.sqrt(linear**2 + 8 * trials * lost * true * (1 - true))
            second = (root - linear) / (4 * trials)  # the likeliest share of `lost`, were this the difference
            spread = math.sqrt(max(0.0, trials * (2 * second + true * (1 - true))))
            return gained - lost - trials * true - sign * reach * spread

        return distance

    return Interval(
        value=value,
        low=-1.0 if lost == trials else float(brentq(beyond(1.0), -1.0, value - apart)),
        high=1.0 if gained == trials else float(brentq(beyond(-1.0), value + apart, 1.0)),
    )


def difference(first: Interval, second: Interval) -> Interval:
    """First minus second of two independent estimates, from their intervals (Zou and Donner 2008)."""
    value = first.value - second.value
    return Interval(
        value=value,
        low=value - math.hypot(first.value - first.low, second.high - second.value),
        high=value + math.hypot(first.high - first.value, second.value - second.low),
    )
