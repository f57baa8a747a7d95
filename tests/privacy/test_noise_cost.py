"""What the noise costs is what arithmetic can do to it, is counted, and leaves the target alone."""

import math
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy import filter as privacy_filter
from dptrain.privacy.accountant import Curve, privacy_loss
from dptrain.privacy.dense_losses import epsilon_of
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.noise import cost as costs
from dptrain.privacy.noise.cost import MOST_DRAWS, ROOM, cost, refuse_costly, stated_epsilon
from dptrain.privacy.noise.gaussian import FINENESS, LEVELS, REACH, TAIL, grid_step
from dptrain.privacy.noise.source import randomness
from dptrain.privacy.plan import Rates, make_plan
from dptrain.sweep.cost import composed

pytestmark = pytest.mark.run

MILLION = 10**6
EDGE = 4.63  # standard deviations, where the tail begins at the latest


def exact_two_sided(size: mpmath.mpf) -> mpmath.mpf:
    return mpmath.erfc(size / mpmath.sqrt(2))


@pytest.mark.parametrize("far", [False, True])
def test_the_libraries_are_as_right_as_is_assumed(far: bool) -> None:
    """erfinv up to where the tail begins, ndtri from there to the end of the levels: 2^-50, with sqrt(2)."""
    rng = torch.Generator().manual_seed(1)
    with mpmath.workprec(200):
        if far:  # from below where the tail begins
            shares = 2.0 ** -(6 + 900 * torch.rand(300, generator=rng, dtype=torch.float64))
            found = -torch.special.ndtri(shares / 2)
        else:
            arguments = torch.rand(300, generator=rng, dtype=torch.float64)
            arguments = torch.cat([arguments, 1 - 2.0 ** -(18 * arguments)])
            found = arguments.erfinv() * math.sqrt(2.0)
        for place, number in enumerate(found.tolist()):
            size = mpmath.mpf(number)
            density = mpmath.sqrt(2 / mpmath.pi) * mpmath.exp(-(size**2) / 2)
            share = 1 - mpmath.mpf(arguments[place].item()) if not far else mpmath.mpf(shares[place].item())
            off = (exact_two_sided(size) - share) / density  # Newton's step: exact to its square
            assert abs(off) <= size * mpmath.mpf(2) ** -50


@given(st.floats(-1.0, 36.0) | st.floats(4.5, EDGE), st.floats(1 / 128, 1 / 64, exclude_min=True))
def test_one_cells_ratio_is_what_the_derivation_says(start, width) -> None:
    """Ideal probabilities of a cell drawn in and let out by the perturbation, in many digits."""
    start = max(start, -width / 2)
    with mpmath.workprec(400):
        a, h = mpmath.mpf(start), mpmath.mpf(width)
        body = mpmath.mpf(1 if abs(a) <= EDGE else 0)
        eta = mpmath.mpf(2) ** -49 * (abs(a) + h + 2) + body * mpmath.mpf(2) ** -53.6 * mpmath.exp(
            (abs(a) + h) ** 2 / 2
        )

        def ideal(low: mpmath.mpf, high: mpmath.mpf) -> mpmath.mpf:
            root = mpmath.sqrt(2)
            return (mpmath.erfc(low / root) - mpmath.erfc(high / root)) / 2

        true, out, drawn_in = ideal(a, a + h), ideal(a - eta, a + h + eta), ideal(a + eta, a + h - eta)
        most = mpmath.mpf(2) ** -40.5 * (max(a, 0) + mpmath.mpf(2.1))
        most += body * mpmath.mpf(2) ** -45.4 * mpmath.exp((max(a, 0) + h) ** 2 / 2)
        assert most <= costs._MOST
        assert mpmath.log(out / true) <= most
        assert -mpmath.log(drawn_in / true) <= most


def test_the_constants_are_those_of_the_derivation() -> None:
    body = 1 + 2 * 2.2 * math.sqrt(2 / math.pi) + 2.2**2  # the mean of (|Z| + 2.2)^2
    width = 1 / FINENESS
    edge = 2 * quad(lambda z: math.exp((z + 2 * width) ** 2) * norm.pdf(z), 0, EDGE + 0.02)[0]
    assert 2 * (2.0**-81 * body + 2.0**-90.8 * edge) <= costs._VARIANCE
    assert 2 * norm.sf(EDGE) < TAIL < 2 * norm.sf(EDGE - 0.01)
    assert (2.0**-54 + 2.0**-63) * math.sqrt(math.pi / 2) <= 2.0**-53.6
    assert costs._MOST >= 2.0**-40.5 * (REACH + 2.1)
    assert pytest.approx(-892 * math.log(2)) == costs._LOG_BEYOND
    assert 63 * (LEVELS + 1) - 53 == 892
    assert norm.logsf(REACH) + math.log(2) < costs._LOG_BEYOND
    assert FINENESS == 64


def mechanism(shift: int, ratio: float, width: float) -> dict[int, float]:
    """Exact probabilities of the grid's outcomes under a crude source: the ideal ones, e^(+-ratio) off."""
    cells = range(-800, 801)
    ideal = {k: norm.cdf((k + 0.5) * width - shift) - norm.cdf((k - 0.5) * width - shift) for k in cells}
    off = {k: p * math.exp(ratio if k % 2 else -ratio) for k, p in ideal.items()}
    total = sum(off.values())
    return {k: p / total for k, p in off.items()}


def test_two_imperfect_mechanisms_differ_by_the_ideal_and_twice_their_imperfection() -> None:
    """The composition with a ratio that can be seen: delta at epsilon + 2 a never exceeds e^a delta."""
    ratio, width = 0.02, 1 / 64 * 2
    one, other = mechanism(0, ratio / 2, width), mechanism(1, ratio / 2, width)
    for epsilon in (0.1, 0.5, 1.0, 2.0):
        ideal = norm.cdf(-epsilon + 0.5) - math.exp(epsilon) * norm.cdf(-epsilon - 0.5)
        for p, q in ((one, other), (other, one)):
            delta = sum(max(0.0, p[k] - math.exp(epsilon + 2 * ratio) * q[k]) for k in p)
            assert delta <= math.exp(ratio) * ideal + 1e-12


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 40.0, 500.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-8, 1e-12])
def test_cost_is_next_to_nothing_for_everyday_plans(epsilon, delta) -> None:
    spent = cost(10**7 * 1000, epsilon=epsilon, delta=delta)
    assert 0 < spent.epsilon < 1e-3 * epsilon
    assert 0 < spent.delta < 1e-3 * delta


@given(st.integers(1, 10**15), st.floats(1e-3, 300), st.floats(1e-12, 1e-2), st.integers(1, 1000))
def test_cost_grows_with_the_numbers(draws, epsilon, delta, times) -> None:
    less, more = (cost(count, epsilon=epsilon, delta=delta) for count in (draws, draws * times))
    assert less.epsilon <= more.epsilon <= times * less.epsilon * (1 + 1e-9)
    assert less.delta <= more.delta


def test_no_numbers_cost_nothing() -> None:
    assert cost(0, epsilon=1.0, delta=1e-5) == costs.Cost()
    assert cost(10, epsilon=math.inf, delta=1e-5) == costs.Cost()


@pytest.mark.parametrize("target", [0.1, 1.0, 8.0])
def test_the_printed_epsilon_with_its_cost_never_exceeds_the_target(target) -> None:
    rates = Rates(expected_batch_size=250, steps=13)
    budget = Budget(epsilon=target, delta=1e-5)
    plan = make_plan(budget, rates, 1000, max_grad_norm=1.0, clipping="flat")
    loss = privacy_loss(plan)
    for parameters in (100, MILLION, 10**9):
        draws = parameters * plan.steps
        said = randomness(plan, draws, on_cpu=True, secret=True)
        guarantee = DPGuarantee(plan=plan, budget=budget, randomness=said)
        assert guarantee.cost.epsilon > 0 < guarantee.cost.delta
        assert loss.get_epsilon_for_delta(1e-5) < guarantee.epsilon() <= target
        assert guarantee.epsilon(1e-6) > loss.get_epsilon_for_delta(1e-6)
        refuse_costly(plan, draws, epsilon=guarantee.epsilon(), delta=1e-5)


def test_the_most_draws_are_more_than_any_training_may_make(make_plan_of) -> None:
    """Whatever epsilon and delta: one that drew more would be refused."""
    for epsilon in (0.0, 1e-3, 0.5, 1.0, 8.0, 300.0):
        for delta in (1e-12, 1e-5, 0.5, 1 - 1e-9):
            with pytest.raises(ConfigError, match=r"more than 0\.0005 of these"):
                refuse_costly(make_plan_of(), MOST_DRAWS, epsilon=epsilon, delta=delta)


def test_what_the_noise_of_all_costs_is_in_what_they_spend_together(make_plan_of) -> None:
    """Each number of noise of each training, as if all were of one."""
    plans = [make_plan_of(steps=100), make_plan_of(steps=200)]
    draws = 10**9 * 300
    ideal = composed(plans, 1e-5, draws=0)
    expected = stated_epsilon(plans[0].loss().compose(plans[1].loss()), draws, delta=1e-5)
    assert ideal < composed(plans, 1e-5, draws=draws) == pytest.approx(expected, rel=1e-9)
    assert privacy_filter.spent(plans, 1e-5, 16.0, draws=draws) > privacy_filter.spent(
        plans, 1e-5, 16.0, draws=0
    )
    assert composed(plans, 1e-5, draws=10**60) == math.inf


def test_statement_and_curve_count_the_cost(make_plan_of, budget) -> None:
    plan = make_plan_of(steps=20)
    said = randomness(plan, 10**9 * 20, on_cpu=True, secret=True)
    guarantee = DPGuarantee(plan=plan, budget=budget, randomness=said)
    statement = guarantee.statement()
    assert statement.randomness is not None
    assert statement.randomness.epsilon == guarantee.cost.epsilon
    assert statement.randomness.delta == guarantee.cost.delta
    assert Curve(plan, 1e-5, parameters=10**9).points[-1][1] == statement.epsilon == guarantee.epsilon()


def test_the_trade_off_is_moved_outwards(make_plan_of, budget) -> None:
    plan = make_plan_of()
    ideal = DPGuarantee(plan=plan, budget=budget)
    actual = replace(ideal, randomness=randomness(plan, 10**12, on_cpu=True, secret=True))
    for rate in (1e-4, 0.01, 0.5, 1.0):
        assert ideal.membership_tpr(rate) <= actual.membership_tpr(rate) <= 1.0
    assert actual.membership_tpr(0.01) == pytest.approx(ideal.membership_tpr(0.01), rel=1e-3)
    assert actual.tradeoff(0.01) == 1.0 - actual.membership_tpr(0.01)
    assert actual.reconstruction_bound(0.1) == actual.membership_tpr(0.1)


def test_stated_epsilon_is_that_of_the_delta_that_is_left(make_plan_of) -> None:
    loss = privacy_loss(make_plan_of())
    ideal = epsilon_of(loss, 1e-5)
    spent = cost(10**13, epsilon=ideal, delta=1e-5)
    expected = epsilon_of(loss, 1e-5 - spent.delta) + spent.epsilon
    assert stated_epsilon(loss, 10**13, delta=1e-5) == expected > ideal
    assert stated_epsilon(loss, 0, delta=1e-5) == ideal


def test_a_plan_whose_noise_costs_too_much_is_refused_by_name(make_plan_of) -> None:
    plan = make_plan_of(steps=MILLION, noise_multiplier=5000.0)
    with pytest.raises(ConfigError, match=r"epsilon=0\.1 .* 1000000 steps of 10000000000 param.*smaller"):
        refuse_costly(plan, 10**16, epsilon=0.1, delta=1e-5)
    refuse_costly(plan, 10**13, epsilon=1.0, delta=1e-8)


def test_what_is_said_of_the_generator(make_plan_of) -> None:
    plan = make_plan_of(noise_multiplier=0.9, max_grad_norm=2.0)
    said = randomness(plan, 5, on_cpu=True, secret=True)
    assert (said.cryptographic, said.secret, said.draws) == (True, True, 5)
    assert said.grid == grid_step(1.8) / 1.8 <= 1 / 64
    assert any("masks" in each and "secret" in each for each in said.assumptions)
    gpu = randomness(plan, 5, on_cpu=False, secret=True)
    assert gpu.cryptographic is False
    assert "Philox" in gpu.source
    assert "privacy.randomness=cryptographic" in gpu.assumptions[0]
    assert ROOM < 1e-3
