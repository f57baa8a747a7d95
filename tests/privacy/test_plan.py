"""Calibration spends the budget and no more, on the very steps that are run."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from riskcal.analysis import get_advantage_from_pld

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy import plan as planning
from dptrain.privacy.accountant import DPSGDPlan, privacy_loss
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.plan import Rates, check_delta, check_rounding, default_delta, make_plan

pytestmark = pytest.mark.run


def plan_for(epsilon, rates, units, **changes):
    budget = Budget(epsilon=epsilon, delta=1e-5, **changes)
    return make_plan(budget, rates, units, max_grad_norm=1.0, clipping="flat")


def epsilon_of(plan):
    return privacy_loss(plan).get_epsilon_for_delta(1e-5)


@pytest.mark.parametrize("adjacency", ["add_remove", "replace_one"])
@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
@pytest.mark.parametrize("target", [0.1, 3.0])
def test_calibration_ends_just_below_the_target(target, sampling, adjacency):
    rates = Rates(expected_batch_size=250, steps=13, sampling=sampling)
    spent = epsilon_of(plan_for(target, rates, 1000, adjacency=adjacency))
    assert 0.999 * target < spent <= target


def test_a_given_noise_multiplier_is_kept():
    budget = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.37)
    plan = make_plan(budget, Rates(sample_rate=0.1, steps=5), 100, max_grad_norm=2.0, clipping="flat")
    assert plan.noise_multiplier == 1.37
    assert plan.noise_std == pytest.approx(2.74)


def test_an_unreachable_target_names_key_and_cure():
    with pytest.raises(ConfigError, match=r"privacy\.epsilon=1e-06 .* fewer steps or allow more"):
        plan_for(1e-6, Rates(sample_rate=1.0, steps=1), 1000)


@pytest.mark.parametrize(
    ("rates", "units", "expected"),
    [
        (Rates(sample_rate=0.3, steps=7), 1000, (0.3, 7, 300)),
        (Rates(sample_rate=0.3, epochs=3), 1000, (0.3, 10, 300)),
        (Rates(expected_batch_size=300, epochs=3), 1000, (0.3, 10, 300)),
        (Rates(expected_batch_size=10, epochs=1), 930, (10 / 930, 93, 10)),
        (Rates(expected_batch_size=32, epochs=1), 32 * 93, (1 / 93, 93, 32)),
        (Rates(expected_batch_size=64, sample_rate=0.05, steps=4), 1000, (0.05, 4, 64)),
        (Rates(sample_rate=1e-6, steps=2), 10, (1e-6, 2, 1)),
    ],
)
def test_rates_resolve_exactly(rates, units, expected):
    assert rates.resolve(units) == expected


def test_a_declared_rate_and_batch_do_not_depend_on_the_number_of_records():
    rates = Rates(expected_batch_size=64, sample_rate=0.05, epochs=2)
    assert rates.declared
    assert rates.resolve(1000) == rates.resolve(1001)


@pytest.mark.parametrize(
    "rates", [Rates(steps=3), Rates(sample_rate=0.1), Rates(sample_rate=0.1, epochs=None)]
)
def test_missing_rates_are_refused(rates):
    with pytest.raises(ConfigError, match="training: give training"):
        rates.resolve(100)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"training\.expected_batch_size=101 .* choose at most 100"):
        Rates(expected_batch_size=101, steps=1).resolve(100)


@pytest.mark.parametrize("units", [2, 10, 100, 999, 60_000, 10**9])
def test_default_delta_is_below_one_over_the_units(units):
    delta = default_delta(units)
    assert 0.0 < delta * units <= 0.1 * (1 + 1e-12), "a tenth of a failure among all, at most"
    assert delta * units > 0.05
    assert delta == float(f"{delta:.0e}"), "one digit"


@settings(max_examples=6, deadline=None)
@given(
    noise=st.floats(0.8, 5.0),
    rate=st.floats(0.005, 0.4),
    steps=st.integers(1, 20),
    sampling=st.sampled_from(["poisson", "shuffle"]),
)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(noise, rate, steps, sampling):
    batch = max(1, round(1000 * rate))
    plan = DPSGDPlan(
        units=1000,
        sample_rate=rate,
        steps=steps,
        expected_batch_size=batch,
        max_grad_norm=1.0,
        noise_multiplier=noise,
        sampling=sampling,
    )
    spent = epsilon_of(plan)
    slack = 1e-6 + 1e-4 * spent
    assert epsilon_of(replace(plan, steps=2 * steps)) >= spent - slack
    assert epsilon_of(replace(plan, noise_multiplier=1.2 * noise)) <= spent + slack
    larger = replace(plan, sample_rate=min(1.0, 1.5 * rate), expected_batch_size=math.ceil(1.5 * batch))
    assert epsilon_of(larger) >= spent - slack


# ------------------------------------------------------------------ from the attack's end


@pytest.mark.parametrize("advantage", [0.05, 0.1, 0.5])
def test_noise_is_calibrated_to_an_advantage(advantage):
    """Against riskcal, an implementation of its own, and against what the guarantee then says."""
    budget = Budget(epsilon=None, delta=1e-5, advantage=advantage)
    plan = plan_of(budget)
    proved = DPGuarantee(plan=plan, budget=budget)
    assert get_advantage_from_pld(proved.loss) <= advantage
    assert get_advantage_from_pld(proved.loss) == pytest.approx(advantage, rel=2e-3)
    gains = [proved.membership_tpr(rate) - rate for rate in (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)]
    assert max(gains) <= advantage + 1e-9
    assert max(gains) > 0.9 * advantage


@pytest.mark.parametrize(("fpr", "tpr"), [(0.01, 0.05), (0.001, 0.01), (0.1, 0.2)])
def test_noise_is_calibrated_to_true_positives_at_a_rate_of_false_ones(fpr, tpr):
    budget = Budget(epsilon=None, delta=1e-5, tpr_at_fpr=(fpr, tpr))
    proved = DPGuarantee(plan=plan_of(budget), budget=budget)
    assert proved.membership_tpr(fpr) <= tpr
    assert proved.membership_tpr(fpr) == pytest.approx(tpr, rel=2e-3)
    assert 0 < proved.epsilon() < 10


def test_an_advantage_out_of_reach_names_the_cure():
    with pytest.raises(ConfigError, match=r"privacy\.advantage=1e-09 cannot be reached"):
        plan_of(Budget(epsilon=None, delta=1e-5, advantage=1e-9))


def plan_of(budget):
    return make_plan(
        budget, Rates(expected_batch_size=100, steps=200), 1000, max_grad_norm=1.0, clipping="flat"
    )


@pytest.mark.parametrize(
    ("rate", "steps", "epsilon"), [(0.01, 1000, 3.0), (0.3, 100_000, 1.0), (1.0, 1, 8.0)]
)
def test_calibration_asks_for_few_distributions(monkeypatch, rate, steps, epsilon):
    asked = []

    def counted(noisy):
        asked.append(noisy.noise_multiplier)
        return privacy_loss(noisy)

    monkeypatch.setattr(planning, "privacy_loss", counted)
    budget = Budget(epsilon=epsilon, delta=1e-6)
    made = make_plan(
        budget,
        Rates(sample_rate=rate, steps=steps, expected_batch_size=10),
        1000,
        max_grad_norm=1.0,
        clipping="flat",
    )
    assert len(asked) == len(set(asked)) <= 12
    spent = privacy_loss(made).get_epsilon_for_delta(1e-6)
    assert epsilon * (1 - 1e-3) < spent <= epsilon


def test_an_epsilon_that_protects_nobody_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"privacy\.epsilon=1e\+06 protects nobody .*mechanism=non_private"):
        make_plan(
            Budget(epsilon=1e6, delta=1e-6),
            Rates(sample_rate=0.1, steps=10, expected_batch_size=10),
            1000,
            max_grad_norm=1.0,
            clipping="flat",
        )


@pytest.mark.parametrize(
    "asked",
    [
        {"epsilon": 3.0},
        {"epsilon": None, "noise_multiplier": 1.0},
        {"epsilon": None, "advantage": 0.1},
        {"epsilon": None, "tpr_at_fpr": (0.01, 0.05)},
    ],
    ids=["epsilon", "noise", "advantage", "attack rate"],
)
@pytest.mark.parametrize("delta", [0.001, 0.0011, 0.5])
def test_a_delta_of_one_over_the_units_is_refused_of_every_budget(asked, delta):
    rates = Rates(expected_batch_size=100, steps=3)
    with pytest.raises(ConfigError, match=rf"privacy\.delta={delta:g} .*1,000 records.*at most 0\.0001"):
        make_plan(Budget(delta=delta, **asked), rates, 1000, max_grad_norm=1.0, clipping="flat")


def test_where_the_number_of_units_is_secret_the_declared_constants_stand_for_it():
    rates = Rates(expected_batch_size=100, sample_rate=0.1, steps=3)
    budget = Budget(epsilon=None, noise_multiplier=1.0, delta=0.0009, units_public=False)
    for units in (900, 5000):
        assert make_plan(budget, rates, units, max_grad_norm=1.0, clipping="flat").units == units
    with pytest.raises(ConfigError, match="for 1,000 records"):
        make_plan(replace(budget, delta=0.001), rates, 900, max_grad_norm=1.0, clipping="flat")


@given(st.integers(1, 10**12))
def test_the_default_delta_of_any_number_of_units(units):
    delta = default_delta(units)
    assert Fraction(f"{delta:.0e}") * 10 * units <= 1 < Fraction(f"{delta:.0e}") * 20 * units
    check_delta(delta, units)


def test_a_delta_that_rounding_hides_is_refused():
    check_rounding(1e-5, 10**7)
    check_rounding(1e-10, 10**5)
    with pytest.raises(ConfigError, match=r"privacy\.delta=1e-10 .* rounding .* 10,000,000 steps"):
        check_rounding(1e-10, 10**7)
    rates = Rates(expected_batch_size=1000, steps=10**7)
    with pytest.raises(ConfigError, match="could be understated"):
        make_plan(Budget(epsilon=1.0, delta=1e-10), rates, 10**9, max_grad_norm=1.0, clipping="flat")
