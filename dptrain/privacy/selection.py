"""What it costs to release the best of a random number of trainings (Papernot & Steinke 2022).

"Hyperparameter tuning with Rényi differential privacy", ICLR 2022; Liu & Talwar 2019, "Private
selection from private candidates", for the geometric case. How many runs there are is drawn from
`RunCount`, in secret and before any run; each run draws its settings anew; one is released.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from dp_accounting import rdp
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS, compute_delta, compute_epsilon
from scipy.optimize import brentq

from dptrain.contracts import Plan
from dptrain.privacy.accountant import event
from dptrain.privacy.noise.cost import IDEAL, Cost, cost, epsilon_with, log_left_out

NAME = f"dp-accounting RDP {version('dp-accounting')}"
SHAPES = {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}  # negative_binomial: any above 0
LEAST_SUCCESS = 1e-12  # of the negative binomial distribution's success probability


@dataclass(frozen=True, kw_only=True)
class RunCount:
    """The distribution of the number of runs, by its mean and shape.

    Shape infinity is Poisson, which may say no run at all; every other is a negative binomial
    distribution without its zero: 1 geometric, 0 logarithmic (Definition 1).
    """

    mean: float
    shape: float

    @classmethod
    def named(cls, distribution: str, *, mean: float, shape: float | None = None) -> RunCount:
        """The distribution of this name; `shape` is that of `negative_binomial`.

        >>> RunCount.named("geometric", mean=10.0).success
        0.1
        """
        return cls(mean=mean, shape=SHAPES[distribution] if shape is None else shape)

    @property
    def theorem(self) -> str:
        """The theorem that bounds a selection with this number of runs."""
        return f"Papernot & Steinke 2022, Theorem {6 if math.isinf(self.shape) else 2}"

    @cached_property
    def success(self) -> float:
        """The success probability (gamma) that has this mean (Definition 1)."""
        if self.shape == 1.0:
            return 1.0 / self.mean
        # In its logarithm, for the mean of a logarithmic distribution grows slowly as gamma falls.
        ends = math.log(LEAST_SUCCESS), -1e-9
        log_mean = math.log(self.mean)
        return math.exp(brentq(lambda log: math.log(self._mean_at(log)) - log_mean, *ends, xtol=1e-14))

    def _mean_at(self, log_success: float) -> float:
        odds = math.expm1(-log_success)  # (1 - gamma) / gamma
        if self.shape == 0.0:
            return odds / -log_success
        return self.shape * odds / -math.expm1(self.shape * log_success)

    def quantile(self, probability: float) -> int:
        """The least number that is not exceeded with this probability, which is below 1.

        >>> [RunCount(mean=2.0, shape=1.0).quantile(each) for each in (0.5, 0.51, 0.99)]
        [1, 2, 7]
        """
        runs, chance = self._first
        total = chance
        while total < probability and chance > 0.0:  # 0: rounding keeps the sum below
            chance *= self._ratio(runs)
            runs += 1
            total += chance
        return runs

    def most(self, log_probability: float) -> int:
        """A number that is exceeded with no more than this probability, given by its logarithm (Chernoff).

        >>> RunCount(mean=10.0, shape=1.0).most(math.log(1e-12))
        525
        """
        if math.isinf(self.shape):
            log_z, log_moment = 1.0, self.mean * (math.e - 1.0)
        elif self.success >= 1.0:
            return 1
        else:  # at (1 - success) z = 1 - success / 2
            half = self.success / 2.0
            log_z = math.log1p(-half) - math.log1p(-self.success)
            if self.shape == 0.0:
                log_moment = math.log(math.log(half) / math.log(self.success))
            else:
                log_moment = self.shape * math.log(2.0)
                log_moment += math.log1p(-(half**self.shape)) - math.log1p(-(self.success**self.shape))
        return math.ceil((log_moment - log_probability) / log_z)

    @cached_property
    def _first(self) -> tuple[int, float]:
        """The smallest number, and its chance."""
        if math.isinf(self.shape):
            return 0, math.exp(-self.mean)
        log = -math.log(self.success)
        weight = log if self.shape == 0.0 else math.expm1(self.shape * log) / self.shape
        return 1, (1.0 - self.success) / weight

    def _ratio(self, runs: int) -> float:
        """How much likelier one run more is than so many."""
        if math.isinf(self.shape):
            return self.mean / (runs + 1)
        return (1.0 - self.success) * (runs + self.shape) / (runs + 1)


@dataclass(frozen=True, kw_only=True)
class RenyiLoss:
    """A bound on Rényi divergences, one an order, that answers like a privacy loss distribution."""

    orders: tuple[float, ...]
    divergences: tuple[float, ...]

    def get_epsilon_for_delta(self, delta: float) -> float:
        """The epsilon that these divergences prove at this delta."""
        return float(compute_epsilon(self.orders, self.divergences, delta)[0])

    def get_delta_for_epsilon(self, epsilons: Any) -> np.ndarray:
        """The deltas that they prove at these epsilons."""
        return np.array([compute_delta(self.orders, self.divergences, e)[0] for e in np.atleast_1d(epsilons)])


def renyi(plan: Plan) -> RenyiLoss:
    """The Rényi divergences of a whole plan, by dp-accounting; raises ConfigError where it has no event."""
    accountant = rdp.RdpAccountant(DEFAULT_RDP_ORDERS)
    with _quiet():
        accountant.compose(event(plan))
    return RenyiLoss(orders=tuple(accountant.orders), divergences=tuple(accountant.rdp))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of orders whose series does not converge: they are infinite, and prove nothing."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def mixture(plans: Iterable[Plan]) -> RenyiLoss:
    """A bound for a run that draws one of these plans, whatever the chances: the largest at each order.

    The run is a mixture of the plans' trainings whose weights do not depend on the records, and
    exp((order - 1) divergence) is jointly convex in the two distributions that it compares (van
    Erven & Harremoës 2014, Theorem 13), so that the mixture's divergence is no larger than the
    largest of them. Which is largest may differ from order to order, so no single plan will do.
    """
    # Plans of one event, such as those that differ in the clipping norm alone, have one curve.
    curves = [renyi(plan) for plan in {event(plan): plan for plan in plans}.values()]
    worst = np.max([curve.divergences for curve in curves], axis=0)
    return RenyiLoss(orders=curves[0].orders, divergences=tuple(worst))


def stated(loss: RenyiLoss, count: RunCount, draws: int, *, delta: float) -> tuple[float, Cost]:
    """Epsilon with noise as it is drawn, at most `draws` numbers a run; and what that noise costs."""
    ideal = loss.get_epsilon_for_delta(delta)
    if draws == 0 or not math.isfinite(ideal):
        return ideal, IDEAL
    log_more = log_left_out(epsilon=ideal, delta=delta)
    spent = cost(count.most(log_more) * draws, epsilon=ideal, delta=delta, log_more=log_more)
    return epsilon_with(loss, spent, delta=delta), spent


def selected(single: RenyiLoss, count: RunCount) -> RenyiLoss:
    """What is proved of the best of so many runs, each bounded by `single`, to whoever sees only the best.

    Theorem 2 of Papernot & Steinke, and for a Poisson number Theorem 6, at every order.
    """
    orders, run = np.array(single.orders), np.array(single.divergences)
    growth = np.full(len(orders), math.inf)
    above = orders > 1.0
    growth[above] = math.log(count.mean) / (orders[above] - 1.0)
    if math.isinf(count.shape):
        limits = np.log1p(1.0 / (orders[above] - 1.0))
        growth[above] += count.mean * single.get_delta_for_epsilon(limits)
        return RenyiLoss(orders=single.orders, divergences=tuple(run + growth))
    # The theorem holds with any second order; the least of all is taken.
    second = (1.0 - 1.0 / orders) * run - math.log(count.success) / orders
    total = run + growth + (1.0 + count.shape) * second.min()
    total = np.minimum.accumulate(total[::-1])[::-1]  # divergences grow with the order
    return RenyiLoss(orders=single.orders, divergences=tuple(total))
