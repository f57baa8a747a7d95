"""What repeats under several seeds say together: intervals over seeds, and comparisons in pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binom, binomtest, t

from dptrain.contracts import Interval

FEWEST = 3  # seeds, or pairs of them, below which nothing is inferred


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Values of one quantity, one a seed, with the interval that they allow, if they allow one.

    `interval` is around the median where the seeds are many enough to need no assumption, and
    around the mean by Student's t where they are fewer; `method` says which, or why there is none.
    """

    values: tuple[float, ...]
    median: float
    interval: Interval | None
    method: str

    @property
    def centre(self) -> float:
        """The mean or median that the interval is of; the median where there is none."""
        return self.median if self.interval is None else self.interval.value


@dataclass(frozen=True, kw_only=True)
class Paired:
    """By how much one quantity differs, seed by seed; `p_value` is None where the pairs are too few."""

    difference: Spread
    pairs: int
    p_value: float | None
    test: str


def spread(
    values: Sequence[float], confidence: float, *, within: tuple[float, float] | None = None
) -> Spread:
    """Values over seeds and their interval, cut to the range that the quantity can have.

    From six seeds on (at 95 %) it is the distribution-free interval of the median, between two
    order statistics (David and Nagaraja 2003, section 7.1); from three on, Student's t interval of
    the mean, which takes the values to be normal; below, none. Equal values have none either: they
    say nothing of how far the next could lie.

    >>> spread([1.0, 2.0], 0.95).method
    'no interval: 2 seeds'
    """
    assert values, "a spread needs a value"
    ordered, count = sorted(values), len(values)
    low, high = ordered[0], ordered[-1]
    interval, method = None, f"no interval: {count} seed{'s' if count > 1 else ''}"
    if count >= FEWEST and math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        method = f"no interval: all {count} agree"
    elif rank := _rank(count, confidence):
        interval = Interval(
            value=statistics.median(ordered), low=ordered[rank - 1], high=ordered[count - rank]
        )
        method = f"median of {count} seeds, distribution-free interval"
    elif count >= FEWEST:
        quantile = float(t.ppf((1 + confidence) / 2, count - 1))
        mean, half = statistics.fmean(values), quantile * statistics.stdev(values) / count**0.5
        least, most = (-float("inf"), float("inf")) if within is None else within
        interval = Interval(value=mean, low=max(least, mean - half), high=min(most, mean + half))
        method = f"mean of {count} seeds, t interval"
    return Spread(values=tuple(values), median=statistics.median(ordered), interval=interval, method=method)


def paired(before: Mapping[int, float], after: Mapping[int, float], confidence: float) -> Paired:
    """How `after` differs from `before`, over the seeds that both have, of which there must be one.

    The test is the one that the interval of the difference inverts: the sign test where that is
    distribution-free, Student's paired t where it is not.

    >>> paired({1: 0.8, 2: 0.7}, {1: 0.9, 2: 0.9}, 0.95).test
    'too few pairs: 2'
    """
    seeds = sorted(before.keys() & after.keys())
    differences = [after[seed] - before[seed] for seed in seeds]
    found = spread(differences, confidence)
    count = len(seeds)
    if count < FEWEST:
        return Paired(difference=found, pairs=count, p_value=None, test=f"too few pairs: {count}")
    if _rank(count, confidence) or found.interval is None:
        return Paired(difference=found, pairs=count, p_value=_sign_test(differences), test="sign test")
    error = statistics.stdev(differences) / count**0.5
    p_value = 2 * float(t.sf(abs(statistics.fmean(differences)) / error, count - 1))
    return Paired(difference=found, pairs=count, p_value=p_value, test="paired t test")


def _rank(count: int, confidence: float) -> int:
    """The greatest k for which the k-th value from either end encloses the median; 0 if none does."""
    rank = int(binom.ppf((1 - confidence) / 2, count, 0.5))
    return rank if 2 * binom.cdf(rank - 1, count, 0.5) <= 1 - confidence else 0


def _sign_test(differences: Sequence[float]) -> float:
    """Exact two-sided sign test; ties say nothing and are left out."""
    signs = [difference > 0 for difference in differences if difference != 0]
    return float(binomtest(sum(signs), len(signs)).pvalue) if signs else 1.0
