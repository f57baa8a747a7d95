"""The area under a ROC curve, with an interval that holds where few probes decide."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from torch import Tensor

from dptrain.contracts import Interval
from dptrain.evidence.intervals import proportion

# Where k probes alone stand out of n members and n non-members, an AUC has variance k / (4 n^2).
# For fewer than eight, the normal approximation raises false alarms: 6 % of them for k = 4.
LEAST_VARIANCE = 8 / 4  # times n^2


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
    inside, outside = scores[members].double().numpy(), scores[~members].double().numpy()
    ranks = rankdata(np.concatenate([inside, outside]))
    beats = (ranks[: len(inside)] - rankdata(inside)) / len(outside)  # share of non-members below each member
    beaten = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)
    return float(beats.mean()), float(_variance_of_mean(beats) + _variance_of_mean(beaten))


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
