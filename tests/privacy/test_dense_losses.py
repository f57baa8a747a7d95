"""Losses composed and read many at once are dp-accounting's."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.common import compute_self_convolve_bounds
from dp_accounting.pld.pld_pmf import DensePLDPmf
from hypothesis import given, settings
from hypothesis import strategies as st

from dptrain.privacy import dense_losses
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.dense_losses import _epsilon_of, epsilon_of, self_composed

LARGEST = 690.0  # of epsilons, of which exp(-epsilon) times any mass that matters is a normal double


@settings(max_examples=30, deadline=None)
@given(
    noise=st.floats(0.4, 20.0),
    rate=st.floats(0.001, 1.0),
    times=st.integers(1, 3000),
    logarithm=st.floats(-12.0, -0.5),
)
def test_epsilons_are_those_of_dp_accounting(noise: float, rate: float, times: int, logarithm: float) -> None:
    interval = 1e-2 if noise < 1 else 1e-3
    loss = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=interval)
    theirs = pld.PrivacyLossDistribution(*(each.to_dense_pmf() for each in parts(loss))).self_compose(times)
    ours = self_composed(loss, times)
    delta = 10.0**logarithm
    # Powers of transforms round by 1e-16 a step, which counts; tails of 1e-15 may be cut off one place apart.
    slack = 1e-13 + 1e-15 * times
    least = dp_accountings(theirs, delta + slack)
    most = dp_accountings(theirs, delta - slack) if slack < delta / 2 else math.inf
    found = min(epsilon_of(ours, delta), LARGEST)
    assert least * (1 - 1e-9) - 1e-9 <= found <= most * (1 + 1e-9) + 1e-9
    some = float(ours.get_delta_for_epsilon(least / 2))
    assert some == pytest.approx(float(theirs.get_delta_for_epsilon(least / 2)), rel=1e-6, abs=slack)


def dp_accountings(loss: Any, delta: float) -> float:
    """dp-accounting's epsilon, which beyond the largest divides by masses of few digits, or of none."""
    with np.errstate(over="ignore"):
        return min(float(loss.get_epsilon_for_delta(delta)), LARGEST)


def parts(loss: pld.PrivacyLossDistribution) -> list[DensePLDPmf]:
    return [loss._pmf_remove] if loss._symmetric else [loss._pmf_remove, loss._pmf_add]


@settings(max_examples=60, deadline=None)
@given(
    masses=st.lists(st.just(0.0) | st.floats(1e-30, 1.0), min_size=1, max_size=12).filter(
        lambda each: sum(each) > 1e-6
    ),
    lowest=st.integers(-2000, 850),
    infinite=st.sampled_from([0.0, 1e-9, 1e-3]),
    delta=st.sampled_from([0.0, 1e-12, 1e-5, 1e-3, 0.3, 0.9]),
)
def test_an_epsilon_is_read_as_dp_accounting_reads_it(
    masses: list[float], lowest: int, infinite: float, delta: float
) -> None:
    shares = np.array(masses) / sum(masses) * (1.0 - infinite)
    values = (0.7, lowest, shares, infinite, True)
    try:
        expected = dp_accountings(DensePLDPmf(*values), delta)
    except OverflowError:  # of a loss so far below zero that nobody asks
        return
    assert min(_epsilon_of(DensePLDPmf(*values), delta), LARGEST) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(
    loss=st.floats(600.0, 900.0), above=st.floats(0.0, 3.0), delta=st.sampled_from([1e-300, 1e-12, 1e-5, 0.3])
)
def test_epsilons_beyond_a_double_are_bounds(loss: float, above: float, delta: float) -> None:
    """Of two losses, as mpmath adds them up; nothing overflows, and nothing is understated."""
    interval = 1e-3
    values, shares = [round(loss / interval), round((loss + above) / interval)], [0.5, 0.5]
    masses = np.zeros(values[1] - values[0] + 1)
    for value, share in zip(values, shares, strict=True):
        masses[value - values[0]] += share
    found = _epsilon_of(DensePLDPmf(interval, values[0], masses, 0.0, True), delta)
    with mpmath.workdps(400):
        reached = [
            share * (1 - mpmath.exp(found - value * interval))
            for value, share in zip(values, shares, strict=True)
        ]
        digits = 1e-12  # a double near 700 has no more of them after the point
        assert sum(max(each, 0) for each in reached) <= delta * (1 + 1e-9) + digits
    assert found <= values[1] * interval + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    # scipy's logsumexp, which dp-accounting calls, divides by masses.
    masses=st.lists(st.just(0.0) | st.floats(1e-100, 1.0), min_size=2, max_size=40).filter(
        lambda each: sum(each) > 1e-6
    ),
    times=st.integers(1, 10**6),
)
def test_tails_are_cut_where_dp_accounting_cuts_them(masses: list[float], times: int) -> None:
    shares = np.array(masses) / sum(masses)
    expected = compute_self_convolve_bounds(shares, times, 1e-15)
    assert dense_losses._kept(shares, times, 1e-15) == pytest.approx(expected, abs=1, rel=1e-9)


def test_nothing_is_understated_where_tails_are_cut() -> None:
    """All mass is there, or counted as an infinite loss."""
    loss = self_composed(pld.from_gaussian_mechanism(1.0, value_discretization_interval=1e-3), 50)
    for pmf in parts(loss):
        assert float(np.sum(pmf._probs)) + pmf._infinity_mass >= 1.0 - 1e-12


def test_no_times_are_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        self_composed(pld.from_gaussian_mechanism(1.0), 0)
    assert math.isinf(_epsilon_of(DensePLDPmf(1e-3, 0, np.ones(1), 0.1, True), 0.01))


def test_what_was_composed_composes_with_any_other() -> None:
    one = self_composed(pld.from_gaussian_mechanism(2.0, value_discretization_interval=1e-3), 3)
    other = pld.from_gaussian_mechanism(2.0, value_discretization_interval=1e-3)
    assert epsilon_of(one.compose(other).compose(one), 1e-5) == pytest.approx(
        float(other.self_compose(7).get_epsilon_for_delta(1e-5)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("steps", "noise", "delta"),
    [
        (10_000, 300.0, 8.88e-12),
        (10_000, 100 / 3, 8.88e-12),
        (100_000, 105.4, 8.88e-11),
        (1_000_000, 1000 / 3, 8.88e-10),
        (1000, 10.0, 1e-5),
        (1, 1.0, 1e-5),
    ],
)
def test_rounding_never_understates_an_epsilon_that_is_known(steps: int, noise: float, delta: float) -> None:
    """So many Gaussian mechanisms are one, of a noise that is their root smaller."""
    plan = DPSGDPlan(
        units=10,
        sample_rate=1.0,
        steps=steps,
        expected_batch_size=10,
        max_grad_norm=1.0,
        noise_multiplier=noise,
    )
    assert epsilon_of(plan.loss(), delta) >= exact_epsilon(math.sqrt(steps) / noise, delta)


def exact_epsilon(mu: float, delta: float) -> float:
    """Of the mu-Gaussian mechanism, to forty digits."""
    with mpmath.workdps(40):

        def apart(epsilon: mpmath.mpf) -> mpmath.mpf:
            one, other = (mpmath.ncdf(-epsilon / mu + sign * mpmath.mpf(mu) / 2) for sign in (1, -1))
            return one - mpmath.exp(epsilon) * other - delta

        low, high = mpmath.mpf(0), mpmath.mpf(60)
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if apart(middle) > 0 else (low, middle)
        return float(low)
