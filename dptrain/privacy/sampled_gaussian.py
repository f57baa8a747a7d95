"""Privacy loss distribution of the Poisson-sampled Gaussian mechanism: dp-accounting's, many losses at once.

Discretised by "Connect the Dots" (Doroshenko et al. 2022, Algorithm 1). dp-accounting inverts the privacy
loss of one number after the other, which is nine tenths of the time that a calibration takes.
"""

from __future__ import annotations

import math

import numpy as np
from dp_accounting.pld.pld_pmf import PLDPmf, create_pmf_pessimistic_connect_dots_fixed_gap
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss


def sampled_gaussian(noise_multiplier: float, rate: float, interval: float) -> PrivacyLossDistribution:
    """One step's distribution where one unit is added or removed, sampled at a `rate` below 1.

    Losses are multiples of `interval`, rounded so that no epsilon is understated.
    """

    def of(adjacency: AdjacencyType) -> PLDPmf:
        mechanism = GaussianPrivacyLoss(noise_multiplier, sampling_prob=rate, adjacency_type=adjacency)
        bounds = mechanism.connect_dots_bounds()
        lowest = math.floor(bounds.epsilon_lower / interval)
        highest = math.ceil(bounds.epsilon_upper / interval)
        losses = np.arange(lowest, highest + 1) * interval
        deltas = _deltas(mechanism, losses, rate, removed=adjacency is AdjacencyType.REMOVE)
        return create_pmf_pessimistic_connect_dots_fixed_gap(interval, lowest, highest, deltas)

    return PrivacyLossDistribution(of(AdjacencyType.REMOVE), of(AdjacencyType.ADD))


def _deltas(
    mechanism: GaussianPrivacyLoss, epsilons: np.ndarray, rate: float, *, removed: bool
) -> np.ndarray:
    """Delta at each of these epsilons, ascending: P(x) - exp(epsilon) Q(x) below the x of that very loss.

    Sampling leaves a loss of log(1 - rate + rate exp(loss)), with the sign of both turned for ADD; that
    never passes -log(1 - rate), where the delta is 0 for ADD and 1 - exp(epsilon) for REMOVE.
    """
    signed = epsilons if removed else -epsilons
    inside = signed > math.log1p(-rate)
    deltas = -np.expm1(epsilons) if removed else np.zeros_like(epsilons)
    # log(1 + (exp(loss) - 1) / rate), without leaving the range of exp; -inf at the very end
    with np.errstate(divide="ignore"):
        above = np.log(-np.expm1(np.minimum(math.log1p(-rate) - signed[inside], 0.0)))
    unsampled = signed[inside] - math.log(rate) + above
    variance = mechanism.standard_deviation**2
    cutoffs = -0.5 - variance * unsampled if removed else 0.5 + variance * unsampled
    lower = np.exp(epsilons[inside] + mechanism.mu_lower_log_cdf(cutoffs))
    deltas[inside] = mechanism.mu_upper_cdf(cutoffs) - lower
    return np.clip(deltas, 0.0, 1.0)
