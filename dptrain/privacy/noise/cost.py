"""What noise that is only nearly Gaussian costs in epsilon and delta, bounded and added.

Lengths are in standard deviations; h is the grid's step (1/128 < h <= 1/64), n the number of coordinates
of all steps together. Two mechanisms are compared on the same data: the ideal one adds a real Gaussian
number to each coordinate of the sum and rounds to the grid, which is post-processing and costs nothing;
the actual one is that of `source`, whose random words are taken to be independent and uniform.

One number. A word and those after it are the leading bits of a real uniform number, from which an ideal
normal Z follows. The actual number differs from Z by at most
eta(Z) = 2^-49 (|Z| + 2), and 2^-53.6 exp(Z^2 / 2) more up to 4.63, where the tail begins:
- erfinv and ndtri, with the square root of 2, are right to 2^-50 of the number (assumed, and tested);
- up to 4.63 the argument x of erfinv is off by at most 2^-54 + 2^-63, which moves Z by that times
  dZ/dx = sqrt(pi / 2) exp(Z^2 / 2); beyond, the share of the tail is off by at most 2^-52 of itself, which
  moves Z by less than 2^-52;
- scaling, and the addition to the rest of the sum (at most h / 2), round by at most 2^-51 |Z| + 2^-53 h.
Beyond REACH (35 deviations) nothing is claimed: its share, 2^-892 of the numbers, is counted in delta.

One cell of the grid. Whatever the rest of the sum is, an outcome is an interval of width h whose nearer end
lies t from 0. Its actual probability lies between the ideal ones of the interval drawn in and let out by eta
at both ends, so that the logarithm of their ratio is at most (1 + exp(t h + h^2)) eta(t + h) / h, which is
at most 2^-40.5 (t + 2.1) for t up to 36, and up to 4.63 in addition 2^-45.4 exp((t + h)^2 / 2).

All of them. Given all outcomes before it, each of the n logarithms has a variance of at most
v = 2 (2^-81 E(|Z| + 2.2)^2 + 2^-90.8 E exp((|Z| + 2 h)^2) [|Z| < 4.65]) < 2^-75.4 and a mean of at most v (a
divergence is at most that of chi-square), and is at most m = 2^-29.4, which is reached where the tail
begins. By Freedman's inequality (1975), but for a probability of d their sum is at most
a = n v + sqrt(2 n v log(1/d)) + 2 m log(1/d) / 3. So P_actual <= e^a P_ideal + d1 and
P_ideal <= e^a P_actual + d1 for any event, with d1 = d + n 2^-892, and through neighbouring data D and D',
P_actual(D) <= e^a (e^epsilon (e^a P_actual(D') + d1) + delta) + d1. That is (epsilon + 2 a,
e^a delta + (1 + e^(a + epsilon)) d1); d is chosen so small that its part of delta does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from dptrain.contracts import ConfigError, Mechanism, Plan, Splits
from dptrain.privacy.dense_losses import epsilon_of

ROOM = 5e-4  # of epsilon and of delta, that calibration leaves and that a plan's noise may cost at most
LEAST_EPSILON = 1e-3  # below, the room is that of this one
# Of a training that `refuse_costly` lets through, whatever it is: 2 sqrt(2 n v log(1/d)) is within ROOM, and
# log(1/d) above 14.8.
MOST_DRAWS = 2**47

_VARIANCE = 2.0**-75.4
_MOST = 2.0**-29.4
_LOG_BEYOND = -892 * math.log(2.0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What is to be added to epsilon and to delta."""

    epsilon: float = 0.0
    delta: float = 0.0
    ratio: float = 0.0  # a, by which the logarithms of the two mechanisms' probabilities differ at most,
    beyond: float = 0.0  # but for this probability, d1


IDEAL = Cost()
NO_BOUND = Cost(epsilon=math.inf, delta=1.0, beyond=1.0)


def cost(draws: int, *, epsilon: float, delta: float, log_more: float = -math.inf) -> Cost:
    """What `draws` numbers, parameters times steps, cost what is (epsilon, delta)-private with ideal noise.

    `log_more` is the logarithm of the probability that there are more.

    >>> spent = cost(10**6 * 10**4, epsilon=1.0, delta=1e-5)
    >>> spent.epsilon < 1e-5, spent.delta < 1e-10
    (True, True)
    """
    if draws == 0 or delta == 0.0 or not math.isfinite(epsilon):
        return IDEAL
    log_d = log_left_out(epsilon=epsilon, delta=delta)
    mean = draws * _VARIANCE
    ratio = mean + math.sqrt(2 * mean * -log_d) + 2 * _MOST * -log_d / 3
    if ratio > 1.0:
        return NO_BOUND
    log_beyond = math.log(draws) + _LOG_BEYOND
    log_both = float(np.logaddexp.reduce([log_d, log_beyond, log_more]))
    # 1 + e^x <= 2 e^x; twice that, as epsilon is that of all of delta and not of what its cost leaves.
    return Cost(
        epsilon=2 * ratio,
        delta=math.expm1(ratio) * delta + math.exp(math.log(4.0) + ratio + epsilon + log_both),
        ratio=ratio,
        beyond=math.exp(log_both),
    )


def log_left_out(*, epsilon: float, delta: float) -> float:
    """Logarithm of a probability so small that it may be left out of a bound: its part of delta is 1e-6."""
    return math.log(1e-6 * delta) - epsilon - 1.0


class Loss(Protocol):
    """A privacy loss distribution."""

    def get_epsilon_for_delta(self, delta: float) -> float: ...


def draws_of(mechanism: Mechanism, model: nn.Module, splits: Splits, plan: Plan | None) -> int:
    """How many normal numbers a training of this plan adds, at most."""
    if plan is None:
        return 0
    told = getattr(mechanism, "draws", None)
    return MOST_DRAWS if told is None else int(told(model, splits, plan))


def stated_epsilon(loss: Loss, draws: int, *, delta: float) -> float:
    """Epsilon at this delta with noise as it is drawn, of what has this loss with ideal noise."""
    ideal = epsilon_of(loss, delta)
    spent = cost(draws, epsilon=ideal, delta=delta)
    return epsilon_with(loss, spent, delta=delta) if spent.epsilon else ideal


def epsilon_with(loss: Loss, spent: Cost, *, delta: float) -> float:
    """Epsilon at this delta of what has this loss with ideal noise, where its own noise costs so much."""
    if spent.delta >= delta > 0.0:
        return math.inf
    return epsilon_of(loss, delta - spent.delta) + spent.epsilon


def refuse_costly(plan: Plan, draws: int, *, epsilon: float, delta: float) -> None:
    """Raise ConfigError where the noise of this plan would cost more than the room that is left for it."""
    spent = cost(draws, epsilon=epsilon, delta=delta)
    room = ROOM * min(1.0, max(epsilon, LEAST_EPSILON))
    if delta == 0.0 or (spent.epsilon <= room and spent.delta <= ROOM * delta):
        return
    raise ConfigError(
        f"privacy.epsilon={epsilon:.3g} at privacy.delta={delta:.3g} in {plan.steps} steps of "
        f"{draws // plan.steps} parameters: that so many numbers are rounded may cost an epsilon "
        f"of {spent.epsilon:.2g} and a delta of {spent.delta:.2g}, more than {ROOM:g} of these; take fewer "
        "steps or a smaller model, or allow more"
    )
