"""A privacy loss distribution of what is known to bound a privacy loss: the chance that it is passed.

A mechanism whose loss, a random number under either of two neighbours, passes y with a probability of S(y) at
most has delta(epsilon) = E (1 - exp(epsilon - loss))+ no larger than a loss that passes each y just so often,
for that is the mean of a rising function; and losses of several mechanisms, each bounded given those before
it, add up to no more than the bounds do.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.floating[Any]]


def distribution(survival: Numbers, interval: float) -> PrivacyLossDistribution:
    """That of a loss that passes `interval` times i with probability survival[i] at most, i = 0, 1, ...

    Losses are rounded up; what may pass the last of them counts as infinite.
    """
    survival = np.minimum.accumulate(np.minimum(survival, 1.0))
    masses = np.concatenate([[1.0 - survival[0]], survival[:-1] - survival[1:]])
    return PrivacyLossDistribution(DensePLDPmf(interval, 0, masses, float(survival[-1]), True))


def of_means(survival: Numbers, interval: float, beyond: float) -> Numbers:
    """How often a mean of such losses passes each point at most, however they depend on each other.

    A mean of losses is at most as large as one of them in increasing convex order, and so passes with
    probability p no more than the mean of the share p of one loss that is largest (Kertz and Roesler 1992,
    "Stochastic and convex orders and lattices of probability measures"). `beyond` is the mean of
    how far a loss passes the last point.
    """
    survival = np.minimum.accumulate(np.minimum(survival, 1.0))
    points = interval * np.arange(len(survival))
    excess = interval * np.cumsum(survival[::-1])[::-1] + beyond  # how far each point is passed, in the mean
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(survival > 0.0, points + excess / survival, np.inf)
    means = np.maximum.accumulate(means)
    # A point is passed no more often than the largest of these means that lies below it.
    reached = np.searchsorted(means, points, side="right") - 1
    return np.where(reached >= 0, survival[np.maximum(reached, 0)], 1.0)
