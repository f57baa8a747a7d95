"""What one training certifies: lower bounds on epsilon from bets on many coins at once.

Each of m canaries (or records) takes part in the training by a fair coin of its own. An
adversary who sees the release bets on r of the coins, r fixed in advance, and v bets are right.
The more are right, the more privacy was lost: two estimators turn v into an epsilon that holds
with the stated confidence, whatever the adversary does. Neither sees a score.

Steinke, Nasr and Jagielski 2023 ("Privacy Auditing with One (1) Training Run") reject every
(epsilon, delta) alike; Mahloujifar, Melis and Chaudhuri 2025 ("Auditing f-Differential Privacy
in One Run") reject a whole trade-off curve, and so see more where its family is known.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import expit, log_ndtr, ndtr
from scipy.stats import beta, binom

Curve = Callable[[float], float]
"""Most true positives at a false-positive rate, or fewest false positives at a true-positive rate."""

SLACK = 1 + 1e-9  # a contradiction must be larger than what rounding could make of an equality
LEAST_P_VALUE = 1e-9  # smaller p-values are not told apart
LEAST_MU = 0.01  # below, every number of guesses is as blind as any other
LUCK = (0.9, 0.7, 0.5, 0.3, 0.1)  # quantiles of the number of right guesses that a plan averages over

_NORMAL = NormalDist()


# --------------------------------------------------------------------------- (epsilon, delta)


def certified_steinke(correct: int, guesses: int, canaries: int, delta: float, confidence: float) -> float:
    """The largest epsilon that so many right guesses reject, whatever the mechanism; 0 if none.

    Steinke et al. 2023, Theorem 5.2.

    >>> round(certified_steinke(100, 100, 100, 0.0, 0.95), 2)
    3.49
    """
    if correct == 0:
        return 0.0

    def rejected(epsilon: float) -> bool:
        return steinke_p_value(correct, guesses, canaries, epsilon, delta) < 1 - confidence

    return largest(rejected, first=1.0)


def steinke_p_value(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Most probable that so many guesses, or more, are right under (epsilon, delta)-privacy."""
    right = binom(guesses, expit(epsilon))
    # Mass just below `correct`, in windows of every width i: P[correct - i <= Bin < correct].
    widths = np.arange(1, min(correct, canaries) + 1)
    windows = np.cumsum(right.pmf(correct - widths))
    slips = 2 * canaries * delta * float((windows / widths).max())
    return min(1.0, float(right.sf(correct - 1)) + slips)


# --------------------------------------------------------------------------- trade-off curves


def rejects_f(correct: int, guesses: int, canaries: int, least_false_positives: Curve, level: float) -> bool:
    """Whether so many right guesses have probability below `level` under a symmetric trade-off curve.

    `least_false_positives` is the inverse of "most true positives at this false-positive rate",
    and convex. Mahloujifar et al. 2025, Theorem 3.2 and Algorithm 3, for fair coins: let p_j be
    the probability of j right guesses, r_k = sum_{j>=k} j p_j / m and h_k = sum_{j>=k} (r - j) p_j / m.
    To turn one coin over makes a right guess wrong, and its neighbours have k + 1 right guesses
    where it has k: so h_k >= F^-1(r_{k+1}). Were `level` the probability of v right ones or more,
    best all of it at v itself, these would ask for some probability of v - 1, that for some of
    v - 2, and so on; together more than 1 is a contradiction.
    """
    most = guesses / canaries * SLACK  # r_0 + h_0 is r / m times the whole probability
    right = level * correct / canaries
    wrong = level * (guesses - correct) / canaries
    for k in range(correct - 1, -1, -1):
        needed = least_false_positives(right)
        if needed <= wrong:
            return False  # nothing more is asked for, here or further down
        right += k / (guesses - k) * (needed - wrong)
        wrong = needed
        if right + wrong > most:
            return True
    return False


def p_value_f(correct: int, guesses: int, canaries: int, most_true_positives: Curve) -> float:
    """Most probable that so many guesses, or more, are right under this trade-off curve.

    The curve is concave, and read on a grid so that the p-value is never understated.
    """
    inverse = Inverse.of(most_true_positives)

    def survives(log_level: float) -> bool:
        return not rejects_f(correct, guesses, canaries, inverse, math.exp(log_level))

    low, high = math.log(LEAST_P_VALUE), 0.0
    if survives(high):
        return 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if survives(middle) else (low, middle)
    return math.exp(high)


@dataclass(frozen=True)
class Inverse:
    """Fewest false positives at a true-positive rate, never overstated, from a curve's values on a grid.

    The inverse of a concave curve is convex, so between two grid points it lies above the
    straight lines through the two points to the left and through the two to the right.
    """

    true_positives: list[float]  # strictly rising
    false_positives: list[float]
    slopes: list[float]  # of each piece, false positives over true positives

    @classmethod
    def of(cls, most_true_positives: Curve) -> Inverse:
        """From "most true positives at this false-positive rate", concave."""
        true_positives: list[float] = []
        false_positives: list[float] = []
        for rate in _GRID:
            found = most_true_positives(float(rate))
            # A step of a rounding error's size would have a slope of any size.
            if not true_positives or found > true_positives[-1] + 1e-13:
                true_positives.append(found)
                false_positives.append(float(rate))
        slopes = np.diff(false_positives) / np.diff(true_positives)
        return cls(true_positives, false_positives, slopes.tolist())

    def __call__(self, true_positives: float) -> float:
        at = bisect_left(self.true_positives, true_positives)
        if at == 0:
            return 0.0
        if at == len(self.true_positives):
            return self.false_positives[-1]
        before, after = self.false_positives[at - 1], self.false_positives[at]
        from_left = from_right = before
        if at >= 2:
            from_left += self.slopes[at - 2] * (true_positives - self.true_positives[at - 1])
        if at < len(self.slopes):
            from_right = after - self.slopes[at] * (self.true_positives[at] - true_positives)
        return min(max(from_left, from_right, before), after)


_GRID = np.unique(np.concatenate([[0.0, 1.0], tail := np.geomspace(1e-15, 0.5, 1500), 1 - tail[tail > 1e-6]]))


# --------------------------------------------------------------------------- the Gaussian family


def certified_gaussian(correct: int, guesses: int, canaries: int, delta: float, confidence: float) -> float:
    """Epsilon at `delta` of the largest mu-Gaussian trade-off that so many right guesses reject; 0 if none.

    An epsilon only of mechanisms whose trade-off curve is Gaussian; of any other it says that the
    curve dips below that Gaussian one somewhere.

    >>> round(certified_gaussian(80, 100, 1000, 1e-5, 0.95), 2)
    1.4
    """
    return gaussian_epsilon(certified_mu(correct, guesses, canaries, confidence), delta)


def certified_mu(correct: int, guesses: int, canaries: int, confidence: float) -> float:
    """The largest mu whose Gaussian trade-off so many right guesses reject; 0 if none."""
    return largest(lambda mu: rejects_mu(correct, guesses, canaries, mu, confidence), first=0.25)


def rejects_mu(correct: int, guesses: int, canaries: int, mu: float, confidence: float) -> bool:
    """Whether so many right guesses reject the trade-off curve of a mu-Gaussian mechanism."""
    inverse_cdf, erfc, root = _NORMAL.inv_cdf, math.erfc, math.sqrt(2)

    def least_false_positives(true_positives: float) -> float:
        if true_positives <= 0.0:
            return 0.0
        if true_positives >= 1.0:
            return 1.0
        return 0.5 * erfc((mu - inverse_cdf(true_positives)) / root)

    return rejects_f(correct, guesses, canaries, least_false_positives, 1 - confidence)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of the mu-Gaussian mechanism (Dong, Roth and Su 2022, Corollary 1), rounded down.

    >>> [round(gaussian_epsilon(mu, 1e-5), 2) for mu in (2.0, 1.0, 0.5, 0.25)]
    [10.0, 4.38, 1.99, 0.93]
    """
    if mu <= 0.0:
        return 0.0

    def spends_more(epsilon: float) -> bool:
        tail = math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2))  # no overflow: the exponent is below 0
        return float(ndtr(mu / 2 - epsilon / mu)) - tail > delta

    return largest(spends_more, first=1.0, precision=1e-9)


def certified_independent(
    correct: int, guesses: int, canaries: int, delta: float, confidence: float
) -> float:
    """What so many right guesses certify if the canaries' noise is independent; 0 if nothing.

    One training is then as many trials as there are bets, and Clopper and Pearson's lower end of
    the share of right ones gives true and false positives on both ends, and so a Gaussian mu.
    That is far more than a one-run certificate, which also holds of mechanisms that give all away
    at once, now and then; and it is wrong of those.

    >>> round(certified_independent(80, 100, 1000, 1e-5, 0.95), 2)
    1.8
    """
    if correct == 0:
        return 0.0
    share = float(beta.ppf(1 - confidence, correct, guesses - correct + 1))
    found, wrong = share * guesses / canaries, (1 - share) * guesses / canaries
    if not 0.0 < wrong < found < 1.0:
        return 0.0
    return gaussian_epsilon(_NORMAL.inv_cdf(found) - _NORMAL.inv_cdf(wrong), delta)


def planned_guesses(mu: float, canaries: int, confidence: float) -> int:
    """How many of the canaries to bet on, half as members: fixed by the guarantee's mu, before any coin.

    The number that would certify the largest mu, on average over the luck of the coins, if scores
    were those of a mu-Gaussian mechanism: N(mu, 1) for members, N(0, 1) for the others. Where no
    number would certify anything, the one whose right bets stand out most from blind ones.
    """
    assert canaries >= 2, f"{canaries} canaries cannot be bet on from both ends"
    mu = max(mu, LEAST_MU)
    halves = np.unique(np.geomspace(1, canaries // 2, 80).round()).astype(int)
    shares = gaussian_shares(mu, halves / canaries)
    best = int(np.argmax((shares - 0.5) * np.sqrt(halves)))
    reached = LEAST_MU / 10
    for at, half in enumerate(halves):
        guesses = 2 * int(half)
        outcomes = [int(v) for v in binom.ppf(LUCK, guesses, shares[at])]
        if not rejects_mu(outcomes[0], guesses, canaries, reached, confidence):
            continue  # the luckiest outcome certifies less than another number does on average
        average = sum(certified_mu(v, guesses, canaries, confidence) for v in outcomes) / len(outcomes)
        if average > reached:
            best, reached = at, average
    return 2 * int(halves[best])


def gaussian_shares(mu: float, tails: np.ndarray) -> np.ndarray:
    """Share of right bets on both ends of N(0, 1) and N(mu, 1), `tails` (fractions of all canaries) long."""
    low, high = np.full_like(tails, -40.0), np.full_like(tails, 40.0 + mu)
    for _ in range(60):
        threshold = (low + high) / 2
        above = (ndtr(-threshold) + ndtr(mu - threshold)) / 2
        low, high = np.where(above > tails, threshold, low), np.where(above > tails, high, threshold)
    members, others = ndtr(mu - high), ndtr(-high)
    return np.asarray(members / (members + others))


def largest(holds: Callable[[float], bool], *, first: float, precision: float = 1e-4) -> float:
    """The largest number, rounded down, up to which a condition holds; 0 if none.

    To a relative `precision`, or to a millionth where that is larger.
    """
    low, high = 0.0, first
    while holds(high):
        low, high = high, 2 * high
    while high - low > precision * high and high > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
