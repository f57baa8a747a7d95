"""Records that depend on each other, as those of one patient do: how many independent ones they are worth."""

from __future__ import annotations

import torch
from scipy.stats import t
from torch import Tensor

from dptrain.contracts import Interval
from dptrain.evidence.intervals import clopper_pearson, proportion, variance_of_share


def of_several(groups: Tensor | None) -> Tensor | None:
    """The number of each record's group, 0, 1, ...; None where each record is a group of its own.

    >>> of_several(torch.tensor([7, 9, 7])), of_several(torch.tensor([7, 9]))
    (tensor([0, 1, 0]), None)
    """
    if groups is None:
        return None
    numbers = groups.unique(return_inverse=True)[1]
    return numbers if len(numbers) and int(numbers.max()) + 1 < len(numbers) else None


def effective_number(
    values: Tensor, groups: Tensor | None, confidence: float, *, one_more: float = 0.0
) -> float:
    """How many independent records have a mean that is as uncertain as that of these values (Kish 1965).

    All of them where `groups` is None. Else the variance of the mean is taken from the sums over groups,
    whatever the dependence within them, and the number is made smaller as far as so few groups tell little of
    their variance (Korn and Graubard 1998). To the groups is added one whose records are all apart from the
    mean by the root of `one_more`: that none was seen is no proof that there is none.
    """
    numbers, records = of_several(groups), len(values)
    if numbers is None:
        return float(records)
    several = int(numbers.max()) + 1
    apart = values.double() - values.double().mean()
    size = records / several
    sums = torch.zeros(several, dtype=torch.float64).index_add_(0, numbers, apart)
    alone = float(apart.square().sum()) + size * one_more
    together = float(sums.square().sum()) + size**2 * one_more
    if several < 2 or not alone > 0.0:
        return float(several)
    effect = (several / (several - 1) * together) / (records / (records - 1) * alone)
    quantile = (1 + confidence) / 2
    fewer = float(t.ppf(quantile, records - 1) / t.ppf(quantile, several - 1)) ** 2
    return min(float(records), max(1.0, fewer * records / max(effect, 1 / records)))


def share(right: Tensor, groups: Tensor | None, confidence: float) -> Interval:
    """A share of records (n,), 0 or 1 each, with Clopper and Pearson's interval of the effective number."""
    count, records, numbers = int(right.sum()), len(right), of_several(groups)
    if numbers is None:
        return clopper_pearson(count, records, confidence)
    one_more = variance_of_share(count / records, int(numbers.max()) + 1)
    trials = effective_number(right, numbers, confidence, one_more=one_more)
    return proportion(count / records * trials, trials, confidence)


def widened(around: Interval, by: float, *, least: float, most: float) -> Interval:
    """An interval that reaches so many times as far to both sides, within what is possible."""
    value = around.value
    low, high = value - by * (value - around.low), value + by * (around.high - value)
    return Interval(value=value, low=max(least, low), high=min(most, high))
