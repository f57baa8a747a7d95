"""Intervals and p-values against scipy, and against what they promise."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm

from dptrain.evidence.calibration import calibration
from dptrain.evidence.intervals import (
    clopper_pearson,
    detection_limit,
    mean_auc,
    permutation_p_value,
    proportion,
)

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


@pytest.mark.parametrize(
    ("have", "records", "labels"), [(1, 200, 3), (1, 200, 14), (2, 200, 3), (5, 100, 3), (30, 150, 2)]
)
def test_a_mean_of_areas_lies_in_its_interval_where_labels_are_rare(have, records, labels):
    rng, trials, apart = torch.Generator().manual_seed(0), 60, 1.5
    truth, held, wide = norm.cdf(apart / math.sqrt(2)), 0, 0.0
    for _ in range(trials):
        known = torch.rand(records, labels, generator=rng).argsort(0) < have
        scores = torch.randn(records, labels, generator=rng) + apart * known
        found = mean_auc(scores, known.float(), 0.95)
        held += found.low <= truth <= found.high
        wide += (found.high - found.low) / trials
    assert held >= 0.9 * trials  # fewer than 54 of 60 once in 30, were it 95 %
    assert wide < (0.9 if have == 1 else 0.6)


def test_calibration_does_not_depend_on_the_order_of_equal_confidences():
    shown = torch.tensor([0.5, 0.5, 0.6, 0.9]).repeat_interleave(torch.tensor([300, 200, 400, 100]))
    right = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < shown
    found = calibration(shown, right, 0.95)
    as_stored = torch.argsort(shown + 0.01 * right)
    assert calibration(shown[as_stored], right[as_stored], 0.95) == found
    assert [each.records for each in found.bins] == [500, 400, 100]
    assert found.error.value < 0.05
    assert calibration(torch.full((9,), 0.5), torch.arange(9) < 4, 0.95).bins[0].records == 9
