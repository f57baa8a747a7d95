"""Epsilon against independent accountants and formulas, and what follows from it against both."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from riskcal.analysis import get_beta_from_pld
from scipy.optimize import brentq
from scipy.stats import norm

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy import accountant
from dptrain.privacy.accountant import (
    FINEST,
    Curve,
    cross_checks,
    grid,
    most_true_positives,
    passes,
    privacy_loss,
)
from dptrain.privacy.dense_losses import epsilon_of
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.plan import Rates, Target, calibrate, make_plan
from dptrain.privacy.sampled_gaussian import sampled_gaussian

pytestmark = pytest.mark.run

DELTA = 1e-5
SMALL = {
    "noise_multiplier": 1.0,
    "sample_rate": 0.01,
    "steps": 1000,
    "units": 1000,
    "expected_batch_size": 10,
}
LARGE = {
    "noise_multiplier": 1.1,
    "sample_rate": 256 / 60000,
    "steps": 14100,
    "units": 60000,
    "expected_batch_size": 256,
}


def epsilon(plan, delta=DELTA):
    return privacy_loss(plan).get_epsilon_for_delta(delta)


def gaussian_epsilon(noise_multiplier, steps, delta=DELTA):
    """The Gaussian mechanism exactly (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(steps) / noise_multiplier

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta

    return brentq(excess, 0.0, 500.0)


@pytest.mark.parametrize(
    ("constants", "adjacency", "sampling", "expected"),
    [
        (SMALL, "add_remove", "poisson", 1.83),
        (LARGE, "add_remove", "poisson", 2.39),
        (SMALL, "replace_one", "poisson", 2.84),
        (LARGE, "replace_one", "poisson", 4.23),
        (SMALL, "add_remove", "shuffle", 17.86),
        # 14100 steps are 60 passes of 235 batches; one step more begins the 61st.
        (LARGE, "add_remove", "shuffle", 54.05),
        ({**LARGE, "steps": 14101}, "add_remove", "shuffle", 54.71),
    ],
)
def test_published_values(make_plan_of, constants, adjacency, sampling, expected):
    found = epsilon(make_plan_of(**constants, adjacency=adjacency, sampling=sampling))
    assert found == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "steps"), [(1.0, 0.01, 1000), (0.8, 0.05, 200), (2.0, 0.2, 300)]
)
def test_opacus_prv_agrees_within_one_percent(make_plan_of, noise_multiplier, sample_rate, steps):
    prv = PRVAccountant()
    prv.history = [(noise_multiplier, sample_rate, steps)]
    theirs = prv.get_epsilon(delta=DELTA, eps_error=0.005, delta_error=DELTA / 1000)
    ours = epsilon(make_plan_of(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps))
    assert ours == pytest.approx(theirs, rel=0.01)


@settings(max_examples=8, deadline=None)
@example(noise=1000.0, rate=0.9999, steps=10)
@example(noise=0.3, rate=1e-9, steps=1)
@given(
    noise=st.floats(0.5, 20.0),
    rate=st.floats(1e-6, 0.9999),
    steps=st.integers(1, 300),
)
def test_one_step_is_that_of_dp_accounting(noise, rate, steps):
    ours = sampled_gaussian(noise, rate, 1e-3)
    theirs = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=1e-3)
    epsilons = np.linspace(0.0, 5.0, 11)
    for one, other in ((ours, theirs), (ours.self_compose(steps), theirs.self_compose(steps))):
        np.testing.assert_allclose(
            one.get_delta_for_epsilon(epsilons), other.get_delta_for_epsilon(epsilons), rtol=1e-6, atol=1e-12
        )
        assert one.get_epsilon_for_delta(DELTA) == pytest.approx(
            other.get_epsilon_for_delta(DELTA), rel=1e-6, abs=1e-9
        )


@pytest.mark.parametrize(
    "changes", [SMALL, {"sample_rate": 1.0, "steps": 4}, {"adjacency": "replace_one"}, {"steps": 0}]
)
def test_the_profile_is_that_of_dp_accounting(make_plan_of, changes):
    loss = privacy_loss(make_plan_of(**changes))
    epsilons, deltas = accountant._profile(loss)
    theirs = np.asarray(loss.get_delta_for_epsilon(epsilons))
    np.testing.assert_allclose(deltas, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("noise_multiplier", "steps"), [(0.7, 1), (1.0, 1), (5.0, 20), (40.0, 1000)])
def test_full_batch_is_the_gaussian_mechanism(make_plan_of, noise_multiplier, steps):
    plan = make_plan_of(noise_multiplier=noise_multiplier, sample_rate=1.0, steps=steps)
    assert epsilon(plan) == pytest.approx(gaussian_epsilon(noise_multiplier, steps), rel=0.002)


def test_replacing_a_record_moves_a_full_batch_twice_as_far(make_plan_of):
    plan = make_plan_of(noise_multiplier=10.0, sample_rate=1.0, steps=20, adjacency="replace_one")
    assert epsilon(plan) == pytest.approx(gaussian_epsilon(5.0, 20), rel=0.002)


@pytest.mark.parametrize("constants", [SMALL, LARGE])
def test_epsilon_is_below_the_looser_renyi_bound(make_plan_of, constants):
    plan = make_plan_of(**constants)
    rdp = RDPAccountant()
    rdp.history = [(plan.noise_multiplier, plan.sample_rate, plan.steps)]
    assert epsilon(plan) < rdp.get_epsilon(delta=DELTA) < 1.25 * epsilon(plan)


def test_cross_checks_carry_the_values_of_opacus(make_plan_of):
    found = cross_checks(make_plan_of(**SMALL), DELTA)
    assert found["opacus_rdp"] == pytest.approx(2.10, abs=0.005)
    assert found["opacus_prv"] == pytest.approx(1.838, abs=0.002)


@pytest.mark.parametrize("changes", [{"sampling": "shuffle"}, {"adjacency": "replace_one"}])
def test_no_cross_check_is_claimed_where_opacus_accounts_for_something_else(make_plan_of, changes):
    assert cross_checks(make_plan_of(**SMALL, **changes), DELTA) == {}


def test_passes_count_those_begun(make_plan_of):
    plan = make_plan_of(units=95, expected_batch_size=10, sampling="shuffle")  # ten batches a pass
    assert [passes(plan, steps) for steps in (1, 10, 11, 20, 21)] == [1, 1, 2, 2, 3]


def test_no_steps_and_endless_noise_cost_nothing(make_plan_of):
    assert privacy_loss(make_plan_of(), 0).get_epsilon_for_delta(DELTA) == 0.0
    assert epsilon(make_plan_of(noise_multiplier=math.inf)) == 0.0


@pytest.mark.parametrize("false_positive_rate", [0.001, 0.01, 0.1, 0.5])
def test_trade_off_agrees_with_riskcal(make_plan_of, false_positive_rate):
    loss = privacy_loss(make_plan_of(**SMALL))
    theirs = 1.0 - get_beta_from_pld(loss, false_positive_rate)
    # Theirs takes the worse of the two directions, ours the curve above both: valid, and a little higher.
    assert theirs - 1e-6 <= most_true_positives(loss, false_positive_rate) <= 1.02 * theirs


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_trade_off_is_the_gaussian_one_and_never_below_it(make_plan_of, mu):
    loss = privacy_loss(make_plan_of(noise_multiplier=1 / mu, sample_rate=1.0, steps=1))
    for rate in np.linspace(0.001, 0.999, 25):
        exact = norm.cdf(norm.ppf(rate) + mu)
        assert exact - 1e-12 <= most_true_positives(loss, rate) <= exact + 0.002


def test_trade_off_ends_where_everything_is_accused(make_plan_of):
    assert most_true_positives(privacy_loss(make_plan_of()), 1.0) == 1.0


@pytest.mark.parametrize(
    ("target", "bounds"),
    [(1.0, (0.606, 0.155, 0.020)), (3.0, (0.764, 0.287, 0.054)), (8.0, (0.952, 0.650, 0.254))],
)
def test_published_reconstruction_bounds(target, bounds):
    budget = Budget(epsilon=target, delta=DELTA)
    rates = Rates(sample_rate=1.0, steps=10)
    plan = make_plan(budget, rates, 100, max_grad_norm=1.0, clipping="flat")
    guarantee = DPGuarantee(plan=plan, budget=budget)
    found = [guarantee.reconstruction_bound(base_rate) for base_rate in (1 / 2, 1 / 10, 1 / 100)]
    assert found == pytest.approx(bounds, abs=0.0015)


def test_the_curve_never_understates(make_plan_of):
    plan = make_plan_of(steps=60)
    curve = Curve(plan, DELTA)
    assert curve.points[0] == (0, 0.0)
    assert curve.points[-1] == (60, pytest.approx(epsilon_of(plan.loss(), DELTA), rel=1e-12))
    for step in (1, 2, 7, 31, 59, 60):
        assert curve.at_most(step) >= epsilon_of(privacy_loss(plan, step), DELTA)


@pytest.mark.parametrize("adjacency", ["add_remove", "replace_one"])
def test_a_coarser_grid_proves_as_much(monkeypatch, make_plan_of, adjacency):
    monkeypatch.setattr(accountant, "MOST_POINTS_OF_ONE", 2**15)
    plan = make_plan_of(noise_multiplier=0.6, adjacency=adjacency, sample_rate=0.5, steps=20)
    assert grid(plan) > 4 * FINEST
    found, fine = epsilon(plan), privacy_loss(plan, interval=FINEST).get_epsilon_for_delta(DELTA)
    assert fine - 1e-6 <= found <= fine * 1.001


def test_usual_plans_have_the_finest_grid(make_plan_of):
    assert grid(make_plan_of()) == grid(make_plan_of(noise_multiplier=0.4)) == FINEST


@pytest.mark.parametrize("noise_multiplier", [1e-300, 1e-3, 0.02])
@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_too_little_noise_is_one_clear_error_and_no_memory(make_plan_of, noise_multiplier, sampling):
    plan = make_plan_of(noise_multiplier=noise_multiplier, sampling=sampling)
    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier=.* is too little for 1000 steps .*add"):
        privacy_loss(plan)


def test_large_losses_are_still_accounted_for(make_plan_of):
    plan = make_plan_of(noise_multiplier=1.0, sample_rate=1.0, steps=600)
    assert epsilon(plan) == pytest.approx(gaussian_epsilon(1.0, 600), rel=1e-3)


@pytest.mark.parametrize("steps", [10**6, 10**7])
def test_epsilon_costs_as_much_work_for_ten_million_steps(monkeypatch, make_plan_of, steps):
    """A few compositions, each of a bounded number of losses: nothing is done once a step."""
    compositions = []
    compose = accountant.self_composed

    def counted(loss, times):
        made = compose(loss, times)
        compositions.append(max(loss._pmf_remove.size, made._pmf_remove.size))
        return made

    monkeypatch.setattr(accountant, "self_composed", counted)
    plan = make_plan_of(units=10**7, sample_rate=1e-4, expected_batch_size=1000, steps=steps)
    noise = calibrate(plan, Target(key="epsilon", most=2.0, at=1e-6))
    assert len(compositions) <= 30
    points = Curve(replace(plan, noise_multiplier=noise), 1e-6, anchors=2).points
    assert len(compositions) <= 32
    assert max(compositions) <= 2**20
    assert 1.9 < points[-1][1] <= 2.0
    rdp = RDPAccountant()
    rdp.history = [(noise, 1e-4, steps)]
    assert points[-1][1] < rdp.get_epsilon(delta=1e-6)
