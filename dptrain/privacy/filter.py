"""A privacy filter: what has been spent when earlier results chose what was trained next.

Plans that are known in advance are composed by their privacy loss distributions. Where a result
chooses the next plan, that sum is not proved; the sum of Rényi divergences of one order, fixed
before any result was seen, is (Feldman & Zrnic 2021, "Individual Privacy Accounting via a Rényi
Filter", Theorem 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from dp_accounting import DpEvent
from dp_accounting.rdp import RdpAccountant

from dptrain.contracts import ConfigError, Plan
from dptrain.privacy.accountant import event
from dptrain.privacy.noise.cost import stated_epsilon
from dptrain.privacy.selection import RenyiLoss

MOST_COPIES = 4096  # of a plan that are tried on a limit


def spent(plans: Sequence[Plan], delta: float, order: float, *, draws: int) -> float:
    """Epsilon at `delta` of these plans, of which results chose the later ones, by this Rényi order.

    All together add `draws` numbers of noise, whose cost is in it: what `noise.cost` bounds is a sum over
    all numbers, each given those before it, whatever they were drawn for. Raises ConfigError for
    `replace_one`, for which the order's divergence is not known.

    >>> from dptrain.privacy.accountant import DPSGDPlan
    >>> plan = DPSGDPlan(units=9, sample_rate=1.0, steps=1, expected_batch_size=9, max_grad_norm=1.0,
    ...             noise_multiplier=4.0)
    >>> spent([plan, plan], 1e-5, 16.0, draws=20) > spent([plan], 1e-5, 16.0, draws=10)
    True
    """
    accountant = RdpAccountant(orders=[order])
    for plan in plans:
        accountant.compose(_covered(plan))
    loss = RenyiLoss(orders=tuple(accountant.orders), divergences=tuple(accountant.rdp))
    return stated_epsilon(loss, draws, delta=delta)


def best_order(plan: Plan, delta: float, limit: float) -> float:
    """The Rényi order by which most copies of a plan stay within `limit`, or by which one is cheapest."""
    copy = _covered(plan)

    def copies_cost(copies: int) -> tuple[float, float]:
        epsilon, order = RdpAccountant().compose(copy, copies).get_epsilon_and_optimal_order(delta)
        return float(epsilon), float(order)

    fits, beyond = 1, MOST_COPIES
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if copies_cost(middle)[0] <= limit else (fits, middle)
    return copies_cost(fits)[1]


def _covered(plan: Plan) -> DpEvent:
    """A plan in the words of dp-accounting; raises ConfigError where a filter does not cover it."""
    if plan.adjacency != "add_remove":
        raise ConfigError(
            f"privacy.adjacency={plan.adjacency}: a search in which results choose the next job is accounted "
            "for with add_remove only; use that, or a grid (hydra/sweeper=basic)"
        )
    return event(plan)
