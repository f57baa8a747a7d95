"""Means of shares, each of which may be anything from 0 to 1: of a session's queries, which are no trials."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import rel_entr

from dptrain.contracts import Interval


def mean_of_shares(mean: float, count: int, confidence: float) -> Interval:
    """The true mean of `count` independent shares in [0, 1], from theirs, whatever their distribution.

    The ends are where Hoeffding's bound on the tail (1963, inequality 2.1), exp(-count * kl(mean, end)),
    is half of what may be missed. The shares need not be distributed alike. For rare events it is about as
    narrow as that of a proportion of so many trials, and where every share is 0 or 1 hardly wider.

    >>> found = mean_of_shares(0.0, 100, 0.95)
    >>> found.low, round(found.high, 4)
    (0.0, 0.0362)
    """
    assert 0.0 <= mean <= 1.0, f"a mean share of {mean}"
    reach = math.log(2 / (1 - confidence)) / count

    def apart(true: float) -> float:
        return float(rel_entr(mean, true) + rel_entr(1 - mean, 1 - true)) - reach

    none, all_ = -math.expm1(-reach), math.exp(-reach)  # the ends, where no share, or every one, is whole
    return Interval(
        value=mean,
        low=0.0 if mean == 0 else all_ if mean == 1 else float(brentq(apart, 0.0, mean)),
        high=1.0 if mean == 1 else none if mean == 0 else float(brentq(apart, mean, 1.0)),
    )
