"""Intervals of differences between two models, and of how far confidences are off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from dptrain.contracts import Interval
from dptrain.evidence.calibration import calibration
from dptrain.evidence.paired import difference, paired_proportions


def profile_score(gained: int, lost: int, trials: int, true: float) -> float:
    """Tango's statistic, the nuisance share found by maximising the likelihood."""

    def unlikely(share: float) -> float:
        cells = np.array([share + true, share, 1 - 2 * share - true])
        return -float(np.array([gained, lost, trials - gained - lost]) @ np.log(np.clip(cells, 1e-300, None)))

    ends = max(0.0, -true), (1 - true) / 2
    share = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    return (gained - lost - trials * true) / np.sqrt(trials * (2 * share + true - true**2))


@pytest.mark.parametrize(("gained", "lost", "trials"), [(1, 5, 24), (12, 3, 50), (7, 7, 30), (2, 40, 200)])
def test_a_paired_interval_ends_where_the_score_test_does(gained: int, lost: int, trials: int) -> None:
    found, reach = paired_proportions(gained, lost, trials, 0.9), norm.ppf(0.95)
    assert profile_score(gained, lost, trials, found.low) == pytest.approx(reach, rel=1e-3)
    assert profile_score(gained, lost, trials, found.high) == pytest.approx(-reach, rel=1e-3)


def test_a_paired_interval_is_wide_where_the_two_never_differ() -> None:
    same = paired_proportions(0, 0, 25, 0.95)
    assert same.high == pytest.approx(1.96**2 / (25 + 1.96**2), rel=1e-3)
    assert same.low == pytest.approx(-same.high)
    assert paired_proportions(25, 0, 25, 0.95).high == 1.0
    assert paired_proportions(0, 25, 25, 0.95).low == -1.0


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """How many of so many trials the first alone, and the second alone, succeeds in."""
    trials = draw(st.integers(1, 2000))
    gained = draw(st.integers(0, trials))
    return gained, draw(st.integers(0, trials - gained)), trials


CONFIDENCES = (0.5, 0.9, 0.95, 0.995, 0.9998)


def assert_ordered(gained: int, lost: int, trials: int, confidence: float) -> None:
    found = paired_proportions(gained, lost, trials, confidence)
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.value == (gained - lost) / trials


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_every_trial_may_go_one_way(confidence: float) -> None:
    for trials in range(1, 301):
        assert_ordered(0, trials, trials, confidence)
        assert_ordered(trials, 0, trials, confidence)
        assert_ordered(0, 0, trials, confidence)


@given(table=tables(), confidence=st.sampled_from(CONFIDENCES))
def test_every_table_has_an_interval_around_its_difference(
    table: tuple[int, int, int], confidence: float
) -> None:
    assert_ordered(*table, confidence)


@given(table=tables(), share=st.floats(0.01, 1.0))
def test_effective_numbers_of_trials_have_one_too(table: tuple[int, int, int], share: float) -> None:
    gained, lost, trials = (share * each for each in table)
    found = paired_proportions(gained, lost, trials, 0.95)
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0


@given(table=tables())
def test_the_two_models_are_treated_alike(table: tuple[int, int, int]) -> None:
    gained, lost, trials = table
    found, turned = (paired_proportions(*each, trials, 0.95) for each in ((gained, lost), (lost, gained)))
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low), abs=1e-8)


def test_intervals_of_differences_hold_as_often_as_they_say() -> None:
    rng, trials, held, beside = np.random.default_rng(0), 300, 0, 0
    for few, many in zip(
        rng.multinomial(30, (0.1, 0.2, 0.7), trials),
        rng.multinomial(500, (0.1, 0.2, 0.7), trials),
        strict=True,
    ):
        one, other = (
            paired_proportions(int(g), int(n), int(sum((g, n, s))), 0.95) for g, n, s in (few, many)
        )
        held += one.low <= -0.1 <= one.high
        apart = difference(one, other)
        beside += apart.low <= 0.0 <= apart.high
    assert 0.93 <= held / trials <= 0.99
    assert 0.93 <= beside / trials <= 0.99


def test_a_difference_reaches_as_far_as_both_do() -> None:
    one, other = Interval(value=0.5, low=0.2, high=0.6), Interval(value=0.3, low=0.25, high=0.7)
    found = difference(one, other)
    assert (found.value, found.low) == pytest.approx((0.2, 0.2 - 0.5))
    assert found.high == pytest.approx(0.2 + np.hypot(0.1, 0.05))


@pytest.mark.parametrize(("count", "surer"), [(200, 0.2), (2000, 0.0)])
def test_the_interval_of_a_calibration_error_holds(count: int, surer: float) -> None:
    rng, trials, held = np.random.default_rng(0), 40, 0
    for _ in range(trials):
        true = 0.5 + 0.5 * rng.beta(4, 2, count)
        confidences = torch.from_numpy(np.minimum(1.0, true + surer))
        found = calibration(confidences, torch.from_numpy(rng.random(count) < true), 0.95).error
        bins = torch.argsort(confidences, stable=True).tensor_split(10)
        apart = confidences - torch.from_numpy(true)
        wanted = sum(len(part) / count * abs(float(apart[part].mean())) for part in bins)
        held += found.low <= wanted <= found.high
    assert held >= 0.9 * trials


def test_calibration_is_that_of_sklearn() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    confidences = rng.random(500)
    right = rng.random(500) < confidences**2
    found = calibration(torch.from_numpy(confidences), torch.from_numpy(right), 0.95)
    shares, means = calibration_curve(right, confidences, n_bins=10, strategy="quantile")
    assert [each.right.value for each in found.bins] == pytest.approx(shares.tolist())
    assert [each.confidence for each in found.bins] == pytest.approx(means.tolist())
    assert found.error.value == pytest.approx(float(np.abs(shares - means).mean()))
