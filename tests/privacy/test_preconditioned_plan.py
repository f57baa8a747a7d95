"""DP-SGD after a release of second moments: what both cost together, and what is made of the moments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from dptrain.contracts import Budget
from dptrain.privacy.plan import Rates
from dptrain.privacy.preconditioned import PreconditionedPlan, make_preconditioned_plan
from dptrain.privacy.written import plan_from_json, plan_to_json
from dptrain.training.whitened import SecondMoments, transform


def plan_of(**changes: Any) -> PreconditionedPlan:
    values: dict[str, Any] = {
        "units": 1000, "sample_rate": 0.1, "steps": 30, "expected_batch_size": 100, "max_grad_norm": 0.3,
        "noise_multiplier": 2.0, "covariance_share": 0.2, "feature_norm": 5.0,
    }  # fmt: skip
    return PreconditionedPlan(**{**values, **changes})


def test_moments_and_steps_cost_what_their_mechanisms_composed_one_by_one_cost() -> None:
    plan = plan_of()
    pld, rdp = PLDAccountant(), RdpAccountant()
    for each in (pld, rdp):
        each.compose(GaussianDpEvent(plan.covariance_std))
        each.compose(PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)), 30)
    mine = plan.loss().get_epsilon_for_delta(1e-5)
    assert mine == pytest.approx(pld.get_epsilon(1e-5), rel=2e-3)
    assert mine > plan.training.loss().get_epsilon_for_delta(1e-5)
    assert RdpAccountant().compose(plan.event()).get_epsilon(1e-5) == pytest.approx(rdp.get_epsilon(1e-5))
    assert plan.loss(0).get_epsilon_for_delta(1e-5) > 0  # second moments are paid for before the first step


def test_moments_take_their_share_and_more_where_a_unit_is_replaced() -> None:
    plan = plan_of()
    of_steps = 0.1 * math.sqrt(30 * math.expm1(2.0**-2))
    assert plan.covariance_mu**2 == pytest.approx(0.2 * (plan.covariance_mu**2 + of_steps**2))
    replaced = plan_of(adjacency="replace_one")
    assert replaced.covariance_mu == pytest.approx(math.sqrt(2) * plan.covariance_mu)
    assert replaced.loss().get_epsilon_for_delta(1e-5) > plan.loss().get_epsilon_for_delta(1e-5)


@pytest.mark.parametrize("asked", [{"epsilon": 1.0}, {"epsilon": None, "advantage": 0.2}], ids=str)
def test_a_budget_is_spent_and_not_passed(asked: dict[str, Any]) -> None:
    rates = Rates(expected_batch_size=100, steps=30)
    plan = make_preconditioned_plan(
        Budget(delta=1e-5, **asked), rates, 1000,
        max_grad_norm=0.3, clipping="flat", covariance_share=0.2, feature_norm=5.0,
    )  # fmt: skip
    if "advantage" in asked:
        assert 0.199 < plan.loss().get_delta_for_epsilon(0.0) <= 0.2
    else:
        assert 0.999 < plan.loss().get_epsilon_for_delta(1e-5) <= 1.0
    assert plan.max_grad_norm == 0.3
    assert plan_from_json(plan_to_json(plan)) == plan
    assert dict(plan.describe())["covariance"].startswith(
        "second moments of features once, clipped to norm 5"
    )


def test_rows_are_whitened_by_exact_moments_and_kept_as_they_are_by_none(rng: torch.Generator) -> None:
    rows = torch.randn(4000, 5, generator=rng).double() * torch.tensor([3.0, 1, 1, 0.3, 0.1]).double()
    moments = SecondMoments(second=rows.T @ rows)
    by = transform(moments, ridge=1e-9, power=1.0, length=2.0)
    made = rows @ by
    squares = made.T @ made
    torch.testing.assert_close(squares, squares[0, 0] * torch.eye(5).double())
    assert float(made.square().sum()) == pytest.approx(4 * float(rows.square().sum()))
    torch.testing.assert_close(transform(moments, ridge=1.0, power=0.0, length=1.0), torch.eye(5).double())


def test_noise_that_makes_eigenvalues_negative_leaves_numbers() -> None:
    moments = SecondMoments(second=torch.diag(torch.tensor([9.0, 1.0, -4.0]).double()))
    by = transform(moments, ridge=2.0, power=1.0, length=1.0)
    assert bool(torch.isfinite(by).all())
    assert by[2, 2] > by[1, 1] > by[0, 0] > 0
