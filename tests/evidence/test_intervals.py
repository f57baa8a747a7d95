"""Intervals and p-values against scipy, and against what they promise."""

import pytest
import torch
from scipy.stats import binomtest

from dptrain.evidence.intervals import clopper_pearson, detection_limit, permutation_p_value, proportion

pytestmark = pytest.mark.run


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 40), (39, 40), (500, 1000)]
)
def test_the_interval_is_the_exact_one(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    for interval in (
        clopper_pearson(successes, trials, confidence),
        proportion(float(successes), float(trials), confidence),
    ):
        assert interval.value == successes / trials
        assert interval.low == pytest.approx(expected.low, abs=1e-9)
        assert interval.high == pytest.approx(expected.high, abs=1e-9)


def test_part_of_a_trial_lies_between_whole_ones():
    lows = [proportion(0.5 * trials, trials, 0.95).low for trials in (4, 4.5, 5)]
    assert lows == sorted(lows)
    assert len(set(lows)) == 3


def test_the_interval_covers():
    rate, trials = 0.3, 12
    rng = torch.Generator().manual_seed(0)
    draws = (torch.rand(2000, trials, generator=rng) < rate).sum(1).tolist()
    intervals = [clopper_pearson(draw, trials, 0.95) for draw in draws]
    assert sum(i.low <= rate <= i.high for i in intervals) / len(intervals) >= 0.95


def test_the_detection_limit_is_reached_by_success_alone():
    assert detection_limit(10, 0.95) == pytest.approx(0.025**0.1)
    assert detection_limit(10, 0.95) == pytest.approx(clopper_pearson(10, 10, 0.95).low)
    assert detection_limit(3.5, 0.95) < detection_limit(4, 0.95)


def test_no_trials_make_no_proportion():
    with pytest.raises(AssertionError, match="needs a trial"):
        proportion(0, 0, 0.95)


def test_the_p_value_counts_ties_and_itself():
    assert permutation_p_value(2.0, torch.tensor([0.0, 1.0, 2.0, 3.0])) == 3 / 5
    assert permutation_p_value(9.0, torch.zeros(99)) == 0.01
