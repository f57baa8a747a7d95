"""What an audit saw of a mechanism's parts: its noise, its batches, the longest contribution."""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import binom, chi2
from torch import Tensor

from dptrain.contracts import Bets, NoiseSeen, SamplingSeen

BINS = 2**14  # of a sum of squares, up to the one that was seen


def noise_p_values(noise: NoiseSeen) -> dict[str, float]:
    """How probable so little noise is under an honest mechanism, and sums over the steps so large.

    Sums of squares of standard normals are chi-square; noise that is drawn once and used again
    adds up over the steps faster than their square root.
    """
    drawn = noise.steps * noise.coordinates
    return {
        "noise_std": math.sqrt(noise.each),
        "noise_p_value": float(chi2.cdf(noise.each * drawn, drawn)),
        "repeated_noise_p_value": float(chi2.sf(noise.summed * noise.coordinates, noise.coordinates)),
    }


def sampling_p_value(sampling: SamplingSeen, members: Tensor) -> float:
    """How probable it is that Poisson sampling uses the members so evenly.

    Batches dealt from a shuffled deck give every member the same count, give or take one. Counts are
    binomial; the sum of their squared deviations is compared with its own distribution, convolved
    exactly but for rounding squares down, which errs upwards: few members that happen to meet
    the expected count are no sign of anything, as chi-square would have it.
    """
    counts = sampling.counts[members].double()
    expected = sampling.steps * sampling.sample_rate
    spread = expected * (1 - sampling.sample_rate)
    if expected < 1.0 or spread == 0.0 or len(counts) == 0:
        return 1.0  # so rare that chi-square is no match, and that nobody could tell
    times = np.arange(sampling.steps + 1)
    seen = float((counts - expected).square().sum())
    unit = max(seen, expected) / BINS
    squares = np.floor((times - expected) ** 2 / unit)
    near = squares <= seen / unit  # who is farther off alone is farther off together
    odds = binom.pmf(times[near], sampling.steps, sampling.sample_rate)
    one = np.bincount(squares[near].astype(int), odds, minlength=BINS + 1)
    return float(min(1.0, _convolved(one, len(counts))[: int(seen / unit) + 1].sum()))


def _convolved(odds: np.ndarray, count: int) -> np.ndarray:
    """The distribution of the sum of `count` numbers with these odds, as far as the odds go."""
    together = np.zeros_like(odds)
    together[0] = 1.0
    while count:
        if count % 2:
            together = np.clip(fftconvolve(together, odds)[: len(odds)], 0.0, None)
        odds, count = np.clip(fftconvolve(odds, odds)[: len(odds)], 0.0, None), count // 2
    return together


def mechanism_checks(released: Bets, control: Bets | None, members: Tensor) -> dict[str, float]:
    """What the attack saw of the mechanism's parts, beside its bets."""
    found = {} if released.noise is None else noise_p_values(released.noise)
    if released.longest is not None:
        found["longest_contribution"] = released.longest
    if control is not None and control.sampling is not None:
        found["even_batches_p_value"] = sampling_p_value(control.sampling, members)
    return found
