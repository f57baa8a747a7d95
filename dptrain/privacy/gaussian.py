"""The Gaussian mechanism: delta at an epsilon, and the mu of both."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Delta of the mu-Gaussian mechanism at epsilon (Dong et al. 2022, Corollary 1)."""
    tail = math.exp(epsilon + norm.logcdf(-epsilon / mu - mu / 2))  # no overflow: the exponent is below 0
    return float(norm.cdf(-epsilon / mu + mu / 2) - tail)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian mechanism that has this epsilon at this delta; 0 for epsilon 0.

    >>> round(gaussian_delta(gaussian_mu(1.0, 1e-5), 1.0), 8)
    1e-05
    """
    if epsilon == 0.0:
        return 0.0
    # Delta is below the one asked for at the lower end, and near 1 at the upper.
    ends = delta, math.sqrt(2 * epsilon) + 20.0
    return float(brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, *ends))
