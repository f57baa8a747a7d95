"""Intervals of means over records, and of measures that are no means."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from dptrain.contracts import Interval
from dptrain.evidence.clusters import of_several


def interval_of_mean(
    values: Tensor,
    confidence: float,
    least: float = 0.0,
    most: float = 1.0,
    groups: Tensor | None = None,
) -> Interval:
    """The mean of one value a record, with Student's interval, kept within what a value can be.

    Records of one of `groups` may depend on each other: its variance is that of the sums over groups.

    Where all values are equal, a mean of so few could still be another: the interval is all that is possible
    for one record, and as wide as the rule of three has it for more.
    """
    count, mean = len(values), float(values.double().mean())
    spread = float(values.double().std()) if count > 1 else math.inf
    if (numbers := of_several(groups)) is not None:
        sums = torch.zeros(int(numbers.max()) + 1, dtype=torch.float64)
        sums.index_add_(0, numbers, (values.double() - mean) * len(sums) / count)
        count = len(sums)
        spread = math.sqrt(float(sums.square().sum()) / (count - 1)) if count > 1 else math.inf
    half = float(stats.t.ppf((1 + confidence) / 2, max(1, count - 1))) * spread / math.sqrt(count)
    if spread == 0.0 and math.isfinite(most - least):
        half = (most - least) * -math.log((1 - confidence) / 2) / count
    return Interval(value=mean, low=max(least, mean - half), high=min(most, mean + half))


def jackknife(
    value: float,
    without: Tensor,
    confidence: float,
    *,
    least: float,
    most: float,
    groups: Tensor | None = None,
) -> Interval:
    """A measure with the interval of its pseudo-values (Tukey 1958); `without` is it without each record."""
    count = len(without)
    if not math.isfinite(value) or count < 3:
        return Interval(value=value, low=least, high=most)
    pseudo = count * value - (count - 1) * without
    around = interval_of_mean(pseudo, confidence, least=-math.inf, most=math.inf, groups=groups)
    low, high = value - (around.value - around.low), value + (around.high - around.value)
    return Interval(value=value, low=max(least, low), high=min(most, high))
