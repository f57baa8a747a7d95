"""Privacy losses on a grid: dp-accounting's distribution, composed and read many losses at once.

dp-accounting bounds tails by one sum a Chernoff order, and looks for an epsilon by one loss after the other
in Python, which together is most of the time that a calibration takes.
"""

from __future__ import annotations

import math

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf, PLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from scipy.fft import irfft, next_fast_len, rfft

ORDERS = 20  # of Chernoff bounds, either way, over the number of losses


class DenseLosses(DensePLDPmf):
    """Probabilities of losses, each a multiple of the interval, of which none is left out."""

    @classmethod
    def of(cls, pmf: PLDPmf) -> DenseLosses:
        dense = pmf.to_dense_pmf()
        return cls(
            dense._discretization,
            dense._lower_loss,
            np.asarray(dense._probs),
            dense._infinity_mass,
            dense._pessimistic_estimate,
        )

    def self_compose(self, num_times: int, tail_mass_truncation: float = 1e-15) -> DenseLosses:
        """So many of them, independent, added up; what is cut off counts as an infinite loss."""
        if num_times <= 0:
            raise ValueError(f"num_times={num_times} is less than 1")
        first, last = _kept(self._probs, num_times, tail_mass_truncation)
        length = last - first + 1
        size = next_fast_len(max(length, self.size), real=True)
        whole = irfft(rfft(self._probs, size) ** num_times, size)
        infinite = tail_mass_truncation - math.expm1(num_times * math.log1p(-self._infinity_mass))
        return DenseLosses(
            self._discretization,
            self._lower_loss * num_times + first,
            np.roll(whole, -first)[:length],
            infinite,
            self._pessimistic_estimate,
        )

    def get_epsilon_for_delta(self, delta: float) -> float:
        """The least epsilon: the mass above it, less exp(epsilon) times the other's, is this delta."""
        if self._infinity_mass > delta:
            return math.inf
        losses = ((self._lower_loss + np.arange(self.size)) * self._discretization)[::-1]
        masses = self._probs[::-1]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            upper = self._infinity_mass + np.append(0.0, np.cumsum(masses))  # of the losses down to each
            lower = np.append(0.0, np.cumsum(masses * np.exp(-losses)))
            there = (upper > delta) & (lower > 0.0)
            epsilons = np.log(np.where(there, (upper - delta) / lower, 1.0))
            ends = there[:-1] & (epsilons[:-1] >= losses)
        without = (upper[1:] >= delta) & (lower[1:] == 0.0)  # the other's mass is too little for a double
        at = int(ends.argmax()) if ends.any() else self.size
        if without.any() and (early := int(without.argmax())) < at:
            return max(0.0, float(losses[early]))
        if upper[at] <= lower[at] + delta:
            return 0.0
        return math.log((upper[at] - delta) / lower[at])


def dense(loss: PrivacyLossDistribution) -> PrivacyLossDistribution:
    """The same distribution of losses, whose parts are composed and read many losses at once."""
    pmfs = [loss._pmf_remove] if loss._symmetric else [loss._pmf_remove, loss._pmf_add]
    return PrivacyLossDistribution(*map(DenseLosses.of, pmfs))


def _kept(masses: np.ndarray, times: int, tail: float) -> tuple[int, int]:
    """The first and the last place of the sum of so many, beyond which no more than `tail` lies (Chernoff).

    The orders are those of dp-accounting, multiples of one over the number of losses: powers of one number a
    loss, which range from exp(-20) to exp(20).
    """
    last = (len(masses) - 1) * times
    if tail == 0:
        return 0, last
    lowest, highest = 0, last
    grown = np.exp(np.arange(len(masses)) / len(masses))
    for sign in (1.0, -1.0):
        base, power = grown**sign, masses.copy()
        for order in range(1, ORDERS + 1):
            power *= base
            moment = float(power.sum())
            if moment <= 0.0:
                continue
            bound = (times * math.log(moment) + math.log(2 / tail)) / (sign * order / len(masses))
            if sign > 0:
                highest = min(highest, math.ceil(bound))
            else:
                lowest = max(lowest, math.floor(bound))
    return lowest, highest
