"""Intervals and p-values that hold at every sample size."""

from __future__ import annotations

from scipy.stats import beta, binomtest
from torch import Tensor

from dptrain.contracts import Interval


def clopper_pearson(successes: int, trials: int, confidence: float) -> Interval:
    """The exact two-sided interval of a binomial proportion (Clopper and Pearson 1934).

    >>> clopper_pearson(0, 10, 0.95).low
    0.0
    """
    ends = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    return Interval(value=successes / trials, low=float(ends.low), high=float(ends.high))


def proportion(successes: float, trials: float, confidence: float) -> Interval:
    """Clopper and Pearson's interval for trials that need not be whole, such as an effective number of them.

    >>> proportion(1.5, 3.0, 0.95).value
    0.5
    """
    assert 0 <= successes <= trials, f"{successes} successes in {trials} trials"
    assert trials > 0, "a proportion needs a trial"
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = beta.ppf(tail, successes, failures + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - tail, successes + 1, failures) if failures > 0 else 1.0
    return Interval(value=successes / trials, low=float(low), high=float(high))


def detection_limit(trials: float, confidence: float) -> float:
    """The most that so many trials can certify: the interval's lower end when every one of them succeeds."""
    return proportion(trials, trials, confidence).low


def permutation_p_value(observed: float, permuted: Tensor) -> float:
    """Share of permutations, the observed order among them, whose statistic is at least the observed one.

    Counting the observed order keeps the test valid with any number of permutations and the
    p-value above zero (Phipson and Smyth 2010). `permuted` is (permutations,).
    """
    return (1 + int((permuted >= observed).sum())) / (1 + len(permuted))
