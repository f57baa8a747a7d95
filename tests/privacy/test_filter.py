"""The privacy filter of a search: beside closed forms, Opacus, and the composition it may not undercut."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
from support import by_opacus

from dptrain.contracts import ConfigError
from dptrain.privacy.accountant import DPSGDPlan, privacy_loss
from dptrain.privacy.filter import best_order
from dptrain.privacy.filter import spent as spent_with_noise

DELTA = 1e-5

spent = partial(spent_with_noise, draws=0)  # ideal noise, as in what it is compared with


def test_gaussian_steps_cost_what_the_closed_form_says(make_plan_of: Callable[..., DPSGDPlan]) -> None:
    plan = make_plan_of(sample_rate=1.0, steps=10, noise_multiplier=8.0)
    divergence = 2 * 10 * 16 / (2 * 8.0**2)
    epsilon = divergence + math.log1p(-1 / 16) - math.log(DELTA * 16) / 15
    assert spent([plan, plan], DELTA, 16.0) == pytest.approx(epsilon)


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize("order", [4.0, 12.5, 32.0])
def test_plans_that_differ_cost_what_opacus_says(
    make_plan_of: Callable[..., DPSGDPlan], order: float
) -> None:
    plans = [make_plan_of(steps=200), make_plan_of(noise_multiplier=2.0, sample_rate=0.05)]
    assert spent(plans, DELTA, order) == pytest.approx(by_opacus(plans, order), rel=1e-6)


def test_no_order_undercuts_the_composition_of_plans_known_in_advance(
    make_plan_of: Callable[..., DPSGDPlan],
) -> None:
    plan = make_plan_of(steps=200)
    together = privacy_loss(plan).self_compose(3).get_epsilon_for_delta(DELTA)
    assert all(spent([plan] * 3, DELTA, order) >= together for order in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0))


def test_the_order_is_the_one_that_admits_most(make_plan_of: Callable[..., DPSGDPlan]) -> None:
    plan = make_plan_of(steps=200)

    def admitted(order: float) -> int:
        return next(count for count in range(1, 100) if spent([plan] * count, DELTA, order) > 3.0) - 1

    chosen = admitted(best_order(plan, DELTA, 3.0))
    assert chosen > 1
    assert chosen == max(map(admitted, (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0)))


def test_shuffled_batches_are_not_amplified(make_plan_of: Callable[..., DPSGDPlan]) -> None:
    shuffled = make_plan_of(sampling="shuffle", units=100, expected_batch_size=10, steps=15)
    twice = make_plan_of(sample_rate=1.0, steps=2)  # fifteen steps of ten have begun their second pass
    assert spent([shuffled], DELTA, 8.0) == spent([twice], DELTA, 8.0)


def test_what_is_not_known_is_refused(make_plan_of: Callable[..., DPSGDPlan]) -> None:
    with pytest.raises(ConfigError, match="use that, or a grid"):
        spent([make_plan_of(adjacency="replace_one")], DELTA, 8.0)
