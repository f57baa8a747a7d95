"""Repeats: the intervals cover, the tests keep their level, and few seeds claim nothing."""

from __future__ import annotations

import numpy as np
import pytest

from dptrain.evidence.repeats import paired, spread

pytestmark = pytest.mark.run


@pytest.mark.parametrize(("seeds", "wanted"), [(3, 0.95), (5, 0.95), (6, 0.95), (9, 0.95), (15, 0.9)])
def test_the_interval_covers_as_often_as_it_says(seeds, wanted):
    rng = np.random.default_rng(0)
    covered = 0
    for values in rng.normal(0.7, 0.1, (1500, seeds)):
        interval = spread(values.tolist(), wanted).interval
        covered += interval.low <= 0.7 <= interval.high
    assert covered / 1500 > wanted - 0.017  # three standard errors


def test_from_six_seeds_on_the_shape_of_the_values_does_not_matter():
    rng = np.random.default_rng(1)
    median = np.exp(0.0)
    covered = 0
    for values in np.exp(2 * rng.standard_normal((1500, 7))):
        found = spread(values.tolist(), 0.95)
        assert "distribution-free" in found.method
        covered += found.interval.low <= median <= found.interval.high
    assert covered / 1500 > 0.933


def test_fewer_seeds_say_that_they_take_the_values_to_be_normal():
    found = spread([0.8, 0.9, 0.85], 0.95, within=(0.0, 1.0))
    assert found.method == "mean of 3 seeds, t interval"
    assert found.interval.value == pytest.approx(0.85)
    assert found.interval.high == pytest.approx(0.85 + 4.302653 * 0.05 / 3**0.5)
    assert spread([0.9, 1.0, 0.95], 0.95, within=(0.0, 1.0)).interval.high == 1.0


@pytest.mark.parametrize("values", [[0.8], [0.8, 0.9], [0.7, 0.7, 0.7], [0.0] * 8])
def test_few_or_equal_values_have_no_interval(values):
    found = spread(values, 0.95)
    assert found.interval is None
    assert found.method.startswith("no interval: ")
    assert found.centre == found.median


@pytest.mark.parametrize("seeds", [4, 7])
def test_paired_tests_keep_their_level_and_see_differences(seeds):
    rng = np.random.default_rng(2)
    alarms, seen = 0, 0
    for _ in range(1000):
        base = rng.normal(0.7, 0.3, seeds)  # pairs share this, so that only what is not shared counts
        noise = rng.normal(0.0, 0.02, (2, seeds))
        before = dict(enumerate(base + noise[0]))
        after = dict(enumerate(base + noise[1]))
        better = dict(enumerate(base + noise[1] + 0.2))
        alarms += paired(before, after, 0.95).p_value <= 0.05
        seen += paired(before, better, 0.95).p_value <= 0.05
    assert alarms / 1000 < 0.05 + 0.021
    assert seen / 1000 > 0.9


def test_the_test_and_the_interval_agree():
    rng = np.random.default_rng(3)
    for seeds in (4, 8):
        for values in rng.normal(0.03, 0.04, (200, seeds)):
            found = paired(dict.fromkeys(range(seeds), 0.0), dict(enumerate(values.tolist())), 0.95)
            apart = not found.difference.interval.low <= 0 <= found.difference.interval.high
            assert apart == (found.p_value <= 0.05)


def test_only_seeds_that_both_have_are_paired():
    found = paired({1: 0.5, 2: 0.6, 3: 0.7, 4: 0.9}, {2: 0.7, 3: 0.8, 4: 1.0, 9: 0.0}, 0.95)
    assert found.pairs == 3
    assert found.difference.median == pytest.approx(0.1)


def test_too_few_pairs_are_not_tested():
    found = paired({1: 0.5, 2: 0.6}, {1: 0.9, 2: 0.8}, 0.95)
    assert found.p_value is None
    assert found.test == "too few pairs: 2"


def test_equal_differences_are_judged_by_their_signs():
    same = paired({1: 0.5, 2: 0.5, 3: 0.5}, {1: 0.5, 2: 0.5, 3: 0.5}, 0.95)
    assert same.p_value == 1.0
    assert paired({1: 0.0, 2: 0.0, 3: 0.0}, {1: 1.0, 2: 1.0, 3: 1.0}, 0.95).p_value == pytest.approx(0.25)
