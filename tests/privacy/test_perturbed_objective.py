"""The perturbed objective: densities of neighbours against the claim, its noise, its accounting."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from densities import Problem
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy.bounded_loss import distribution, of_means
from dptrain.privacy.gaussian import gaussian_delta, gaussian_mu
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.one_release import OneRelease
from dptrain.privacy.perturbed_objective import (
    OUTPUT,
    TOLERANCE,
    ObjectivePlan,
    calibrated,
    perturbed_minimum,
)
from dptrain.privacy.ridge_logistic import minimum
from dptrain.privacy.written import plan_from_json, plan_to_json


def plan_of(**changes: Any) -> ObjectivePlan:
    values: dict[str, Any] = {
        "units": 1000, "noise_multiplier": 2.0, "least_ridge": 2.0, "ridge_per_noise": 0.0,
        "feature_norm": 1.0, "classes": 3,
    }  # fmt: skip
    return ObjectivePlan(**{**values, **changes})


# ---------------------------------------------------------------------- densities of neighbours


def drawn(seed: int, *, classes: int, units: int, ridge: float) -> tuple[Problem, Tensor]:
    """A unit of so many records and six others, and a point where the minimum may be."""
    rng = torch.Generator().manual_seed(seed)
    count = units + 6
    rows = torch.randn(count, 2, generator=rng, dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1.0)
    weights = torch.ones(count, dtype=torch.float64)
    weights[:units] = 1 / units
    scale = 10.0 ** (3 * torch.rand(1, generator=rng, dtype=torch.float64) - 2)
    point = scale * torch.randn(2, classes, generator=rng, dtype=torch.float64)
    offsets = torch.randn(classes, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, classes, (count,), generator=rng)
    return Problem(rows, labels, weights, ridge, offsets), point


def without(problem: Problem, units: int) -> Problem:
    rest = {name: getattr(problem, name)[units:] for name in ("rows", "labels", "weights")}
    return replace(problem, **rest)


def bound(plan: ObjectivePlan, normals: list[float]) -> float:
    return float(np.mean([plan._loss_at(each) for each in normals]))


CASES = st.fixed_dictionaries(
    {"seed": st.integers(0, 10**6), "classes": st.integers(2, 4), "ridge": st.floats(0.05, 50.0)}
)


@settings(max_examples=40, deadline=None)
@given(case=CASES, units=st.integers(1, 3), noise=st.floats(0.3, 30.0))
def test_one_unit_changes_the_density_by_no_more_than_claimed(
    case: dict[str, Any], units: int, noise: float
) -> None:
    whole, point = drawn(units=units, **case)
    less = without(whole, units)
    plan = plan_of(
        noise_multiplier=noise, least_ridge=case["ridge"], classes=case["classes"], alone=units == 1
    )
    std, own = plan.linear_std, (whole.rows[:units], whole.labels[:units])
    change = whole.log_density(point, std) - less.log_density(point, std)
    assert change <= bound(plan, whole.normals(point, std, *own)) + 1e-7
    # Where the unit is not there, the linear term counts with the other sign.
    assert -change <= bound(plan, less.normals(point, -std, *own)) + 1e-7


@settings(max_examples=40, deadline=None)
@given(case=CASES, units=st.integers(1, 2), noise=st.floats(0.3, 30.0))
def test_one_unit_in_place_of_another_does_neither(case: dict[str, Any], units: int, noise: float) -> None:
    one, point = drawn(units=units, **case)
    unit, _ = drawn(units=units, **(case | {"seed": case["seed"] + 1}))
    changed = {
        name: torch.cat([getattr(unit, name)[:units], getattr(one, name)[units:]])
        for name in ("rows", "labels")
    }
    other = replace(one, **changed)
    plan = plan_of(
        noise_multiplier=noise, least_ridge=case["ridge"], classes=case["classes"], adjacency="replace_one"
    )
    std = plan.linear_std
    change = one.log_density(point, std) - other.log_density(point, std)
    gone = one.normals(point, std, one.rows[:units], one.labels[:units])
    come = one.normals(point, -std, other.rows[:units], other.labels[:units])
    assert change <= (bound(plan, gone) + bound(plan, come)) / 2 + 1e-7


def densities(ridge: float, std: float, offset: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Of one record of two classes and of none, along the only direction that the loss knows, on a grid."""
    reach = 14 * std / ridge + 2 / ridge
    at = np.linspace(-reach, reach, 400_001)
    other = expit(offset - math.sqrt(2) * at)  # the probability of the wrong class
    slope, bent = -math.sqrt(2) * other, 2 * other * (1 - other)
    with_record = norm.pdf(slope + ridge * at, scale=std) * (bent + ridge)
    return with_record, norm.pdf(ridge * at, scale=std) * ridge, float(at[1] - at[0])


@pytest.mark.parametrize("ridge", [0.3, 2.0, 30.0])
@pytest.mark.parametrize("noise", [0.7, 3.0])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 40.0])
def test_delta_is_at_most_what_the_plan_says_and_hardly_less(
    ridge: float, noise: float, offset: float
) -> None:
    """By quadrature, of a record alone; with a large offset it is as steep as any can be."""
    plan = plan_of(least_ridge=ridge, noise_multiplier=noise, classes=2)
    interval = plan.interval
    points = interval * np.arange(math.ceil(plan._loss_at(9.5) / interval) + 1)
    claimed = distribution(plan.survival(points), interval)
    first, second, step = densities(ridge, plan.linear_std, offset)
    for epsilon in (0.0, 0.1, 0.5, 1.0, 3.0, 5.0):
        found = max(
            float(np.clip(one - math.exp(epsilon) * other, 0, None).sum() * step)
            for one, other in ((first, second), (second, first))
        )
        most = claimed.get_delta_for_epsilon(epsilon)
        assert found <= most * (1 + 1e-6) + 1e-12
        if offset == 40.0 and epsilon > 2 / ridge and found > 1e-9:
            assert most == pytest.approx(found, rel=0.01)


def test_to_forget_the_determinant_would_understate() -> None:
    plan = plan_of(least_ridge=0.3, noise_multiplier=3.0, classes=2)
    first, second, step = densities(0.3, plan.linear_std, 0.0)
    found = float(np.clip(first - math.exp(0.5) * second, 0, None).sum() * step)
    assert found > 2 * gaussian_delta(plan.mu, 0.5)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_largest_of_the_normals_is_bounded_and_hardly_above(classes: int) -> None:
    nodes, masses = hermegauss(180)
    plan = plan_of(classes=classes, least_ridge=1e9)
    for z in (1.0, 2.0, 4.0):
        above = 1 - (masses / masses.sum()) @ norm.cdf(nodes + math.sqrt(2) * z) ** (classes - 1)
        claimed = float(plan.survival(np.array([plan._loss_at(z)]))[0])
        assert above <= claimed * (1 + 1e-6)
        assert z < 4 or claimed < 1.06 * above


def test_a_mean_of_losses_is_bounded_however_they_depend_on_each_other() -> None:
    interval, size = 0.01, 2000
    masses = np.exp(-((np.arange(size) - 300) ** 2) / (2 * 150**2))
    masses /= masses.sum()
    survival = 1 - np.cumsum(masses)
    claimed = of_means(np.maximum(survival, 0.0), interval, 0.0)
    same = survival
    apart = 1 - np.cumsum(np.convolve(masses, masses))[: 2 * size : 2]  # the mean of two that are independent
    assert bool((claimed >= np.maximum(same, apart) - 1e-9).all())
    assert bool((np.diff(claimed) <= 0).all())
    own, of_mean = (np.searchsorted(-each, -1e-3) for each in (survival, claimed))
    assert own < of_mean < 1.1 * own


# ---------------------------------------------------------------------- what is found


def records(seed: int, count: int = 300, size: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=rng, dtype=torch.float64)
    rows = (rows / rows.norm(dim=1, keepdim=True)).float().double()
    return rows, torch.randint(0, 3, (count,), generator=rng), torch.ones(count, dtype=torch.float64)


def test_without_noise_it_is_scikit_learns() -> None:
    rows, labels, weights = records(3)
    plan = plan_of(least_ridge=0.5)
    found = perturbed_minimum([(rows, labels, weights)], plan, torch.zeros(3), None).weights
    other = LogisticRegression(C=1 / plan.ridge, fit_intercept=False, tol=1e-10, max_iter=10_000)
    other.fit(rows.numpy(), labels.numpy())
    np.testing.assert_allclose(found.T.numpy(), other.coef_, atol=2 * TOLERANCE / 0.5)


def test_with_noise_it_is_the_minimum_for_a_linear_term_of_the_plan_s_deviation() -> None:
    rows, labels, weights = records(5)
    plan, source = plan_of(least_ridge=3.0, noise_multiplier=8.0), NoiseSource(bytes(32))
    squares, count = 0.0, 0
    problem = Problem(rows, labels, weights, plan.ridge, torch.zeros(3))
    for _ in range(20):
        found = perturbed_minimum([(rows, labels, weights)], plan, torch.zeros(3), source).weights
        squares += float(problem.linear_term(found).square().sum()) / plan.linear_std**2
        count += found.numel()
    assert abs(squares - count) < 5 * math.sqrt(2 * count) + count * 1e-3


def test_what_is_found_has_noise_for_what_it_is_off() -> None:
    """Of no record at all, whose minimum is the linear term over the ridge."""
    plan = plan_of(least_ridge=2.0, classes=2, noise_multiplier=5.0)
    nothing = torch.zeros(1, 3000, dtype=torch.float64), torch.zeros(1, dtype=torch.int64), torch.ones(1)
    source, drawn_too = NoiseSource(bytes(32)), NoiseSource(bytes(32))
    found = perturbed_minimum([nothing], plan, torch.zeros(2), source).weights
    exact = -plan.linear_std / plan.ridge * drawn_too.normal(6000).view(3000, 2)
    off = (found - exact) / plan.output_std
    assert float(off.std()) == pytest.approx(1.0, rel=0.05)
    assert plan.output_std * OUTPUT / plan.noise_multiplier == pytest.approx(2 * TOLERANCE / plan.ridge)


def test_it_is_found_to_half_the_tolerance_the_rest_being_for_rounding() -> None:
    rows, labels, weights = records(7)
    found = minimum(
        [(rows, labels, weights)],
        ridge=0.1,
        offsets=torch.zeros(3),
        tolerance=TOLERANCE / 2,
        linear=lambda shape: torch.full(shape, 5.0, dtype=torch.float64),
    ).weights
    slope = Problem(rows, labels, weights, 0.1, torch.zeros(3)).linear_term(found) - 5.0
    assert float(slope.norm()) <= TOLERANCE / 2


# ---------------------------------------------------------------------- what it costs


def test_from_two_over_epsilon_on_two_classes_cost_what_two_gaussian_mechanisms_do() -> None:
    plan = plan_of(classes=2, least_ridge=10.0, noise_multiplier=3.0)
    other = PLDAccountant().compose(GaussianDpEvent(3.0)).compose(GaussianDpEvent(3.0 / OUTPUT))
    assert plan.loss().get_epsilon_for_delta(1e-5) == pytest.approx(other.get_epsilon(1e-5), rel=2e-3)
    assert plan.loss(0).get_epsilon_for_delta(1e-5) == 0.0
    assert isinstance(plan, OneRelease)


@pytest.mark.parametrize(
    ("words", "asked", "times"),
    [
        ({"classes": 2}, {"epsilon": 1.0}, 1.0),
        ({"classes": 2, "alone": False}, {"epsilon": 1.0}, 1.06),
        ({"classes": 2, "adjacency": "replace_one"}, {"epsilon": 1.0}, 2.12),
        ({"classes": 10}, {"epsilon": 3.0}, 1.13),
        ({"classes": 3}, {"epsilon": None, "advantage": 0.2}, None),
    ],
    ids=str,
)
def test_a_budget_is_spent_and_not_passed(
    words: dict[str, Any], asked: dict[str, Any], times: float | None
) -> None:
    budget = Budget(delta=1e-5, adjacency=words.get("adjacency", "add_remove"), **asked)
    plan = calibrated(plan_of(least_ridge=20.0, **words), budget)
    loss = plan.loss()
    if budget.epsilon is None:
        assert 0.19 < loss.get_delta_for_epsilon(0.0) <= 0.2
        return
    assert 0.998 * budget.epsilon < loss.get_epsilon_for_delta(1e-5) <= budget.epsilon
    assert times is not None
    assert plan.noise_multiplier * gaussian_mu(budget.epsilon, 1e-5) == pytest.approx(times, rel=0.015)


def test_a_ridge_that_no_noise_goes_with_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"mechanism\.least_ridge=0\.1 .* choose 2 / epsilon or more"):
        calibrated(plan_of(least_ridge=0.1), Budget(epsilon=1.0, delta=1e-5))
    with pytest.raises(ConfigError, match="epsilon would be in the hundreds"):
        plan_of(noise_multiplier=0.01).loss()


def test_a_ridge_that_grows_with_the_noise_goes_with_any_budget() -> None:
    plan = calibrated(plan_of(least_ridge=0.1, ridge_per_noise=2.5), Budget(epsilon=0.1, delta=1e-5))
    assert plan.ridge == pytest.approx(2.5 * plan.noise_multiplier)
    assert 0.0995 < plan.loss().get_epsilon_for_delta(1e-5) <= 0.1


def test_a_plan_is_written_and_read() -> None:
    plan = plan_of(adjacency="replace_one", alone=False)
    assert plan_from_json(plan_to_json(plan)) == plan
