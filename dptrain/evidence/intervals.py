"""Intervals, of areas under ROC curves too, and p-values that hold at every sample size."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta, binomtest, norm, rankdata, t
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


# Where k probes alone stand out of n members and n non-members, an AUC has variance k / (4 n^2).
# For fewer than eight, the normal approximation raises false alarms: 6 % of them for k = 4.
LEAST_VARIANCE = 8 / 4  # times n^2


FEW = 10  # records with a label, or without
UNDEFINED_AREA = Interval(value=math.nan, low=0.0, high=1.0)  # where there is nothing to tell apart


def auc(scores: Tensor, members: Tensor, confidence: float) -> Interval:
    """The area under the ROC curve, with DeLong's interval on the logit scale.

    Where about eight probes or fewer decide (near 0 and 1, among few probes, or where most are
    tied) the normal approximation fails. The interval is then that of a proportion among as many
    trials as the rarer side has probes, whose variance is the largest that an AUC can have
    (Birnbaum and Klose 1957).
    """
    area, variance = delong(scores, members)
    fewest = min(int(members.sum()), int((~members).sum()))
    if not variance * fewest**2 > LEAST_VARIANCE:
        return proportion(area * fewest, fewest, confidence)
    reach = norm.ppf((1 + confidence) / 2) * math.sqrt(variance) / (area * (1 - area))
    return Interval(value=area, low=float(expit(logit(area) - reach)), high=float(expit(logit(area) + reach)))


def delong(scores: Tensor, members: Tensor) -> tuple[float, float]:
    """The AUC, ties counted half, and its variance (DeLong et al. 1988) by midranks (Sun and Xu 2014)."""
    beats, beaten = placements(scores, members)
    return float(beats.mean()), float(_variance_of_mean(beats) + _variance_of_mean(beaten))


def placements(scores: Tensor, members: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The share of non-members below each member, and of members above each non-member, ties counted half."""
    inside, outside = scores[members].double().numpy(), scores[~members].double().numpy()
    ranks = rankdata(np.concatenate([inside, outside]))
    beats = (ranks[: len(inside)] - rankdata(inside)) / len(outside)
    beaten = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)
    return beats, beaten


def mean_auc(scores: Tensor, labels: Tensor, confidence: float, groups: Tensor | None = None) -> Interval:
    """The mean of the AUCs of several labels (n, labels) of the same records, each of which differs.

    DeLong's variance of the mean, on the logit scale: what a record adds to it, over all its labels, is
    taken together, so that labels may depend on each other. Where few records have a label, or lack it, they
    tell little of their own variance. The interval is then that of a proportion among as many trials as have
    the variance of the mean, to which each side adds one record of the largest that it can have (Birnbaum and
    Klose 1957); what the labels of one record add in this way is taken to point the same way. Records of one
    of `groups` may depend on each other: what all of them add is taken together (Obuchowski 1997).
    """
    areas = []
    whose = np.arange(len(scores))
    if groups is not None:
        whose = groups.unique(return_inverse=True)[1].numpy()
    several = int(whose.max()) + 1
    influence, unseen = np.zeros((2, several))
    fewest = several
    for score, label in zip(scores.T, labels.T.bool(), strict=True):
        sides = placements(score, label)
        areas.append(float(sides[0].mean()))
        for side, where in zip(sides, (label, ~label), strict=True):
            here = np.unique(whose[where.numpy()])
            count = len(here)
            apart = (side - side.mean()) / (len(side) * math.sqrt(max(1, count - 1) / count))
            influence += np.bincount(whose[where.numpy()], weights=apart, minlength=several)
            unseen[here] += math.sqrt(variance_of_share(areas[-1], count)) / count**1.5
            fewest = min(fewest, count)
    area, averaged = float(np.mean(areas)), len(areas)
    spread = float(np.linalg.norm(influence)) / averaged
    if fewest < FEW:
        variance = spread**2 + float(np.linalg.norm(unseen) / averaged) ** 2
        trials = variance_of_share(area, fewest * averaged) / variance
        return proportion(area * trials, trials, confidence)
    if not 0.0 < area < 1.0 or not spread > 0.0:
        return proportion(area * fewest, fewest, confidence)
    quantile = norm.ppf((1 + confidence) / 2)
    if several < len(scores):
        quantile = t.ppf((1 + confidence) / 2, fewest - 1)
    reach = quantile * spread / (area * (1 - area))
    return Interval(value=area, low=float(expit(logit(area) - reach)), high=float(expit(logit(area) + reach)))


def variance_of_share(share: float, count: float) -> float:
    """The largest variance of values in [0, 1] of this mean, to which one of each kind is added.

    A share of 0 or 1 of so few is not certain (Agresti and Coull 1998).
    """
    share = (share * count + 1) / (count + 2)
    return share * (1 - share)


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
