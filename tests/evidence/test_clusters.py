"""Records of one patient are not as many trials: intervals hold what they say for new patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dptrain.contracts import Interval
from dptrain.evidence.calibration import calibration
from dptrain.evidence.clusters import effective_number, share
from dptrain.evidence.intervals import clopper_pearson, mean_auc
from dptrain.tasks.means import interval_of_mean, jackknife

REPEATS = 400


def latent(patients: int, each: int, within: float, seed: int) -> tuple[Tensor, Tensor]:
    """A standard normal number a record, those of one patient correlated, and whose each is."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((patients, 1)).repeat(each, 1)
    found = math.sqrt(within) * own + math.sqrt(1 - within) * rng.standard_normal((patients, each))
    return torch.from_numpy(found.reshape(-1)), torch.arange(patients).repeat_interleave(each) + 7


def holds(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


@pytest.mark.parametrize("within", [0.3, 0.6])
@pytest.mark.parametrize(("patients", "each"), [(50, 10), (60, 10)])
def test_a_share_covers_among_patients(patients: int, each: int, within: float) -> None:
    covered = alone = 0
    for seed in range(REPEATS):
        numbers, groups = latent(patients, each, within, seed)
        right = numbers < 0.8416  # four of five
        covered += holds(share(right, groups, 0.95), 0.8)
        alone += holds(share(right, None, 0.95), 0.8)
    assert 0.93 <= covered / REPEATS <= 0.985
    assert alone / REPEATS < 0.86


@pytest.mark.parametrize("within", [0.3, 0.6])
def test_means_and_areas_cover_among_patients(within: float) -> None:
    means = areas = alone = 0
    for seed in range(REPEATS):
        numbers, groups = latent(60, 10, within, seed)
        means += holds(interval_of_mean(numbers, 0.95, -math.inf, math.inf, groups), 0.0)
        ill = groups % 2 == 0
        scores = torch.stack([-(numbers + ill), numbers + ill], 1)
        labels = torch.stack([~ill, ill], 1)
        areas += holds(mean_auc(scores, labels, 0.95, groups), 0.76025)
        alone += holds(mean_auc(scores, labels, 0.95), 0.76025)
    assert 0.93 <= means / REPEATS <= 0.975
    assert 0.93 <= areas / REPEATS <= 0.99
    assert alone / REPEATS < 0.86


def test_of_one_record_each_nothing_changes() -> None:
    numbers, groups = latent(80, 1, 0.0, 1)
    right, label = numbers < 0.5, torch.arange(80) % 3 == 0
    assert effective_number(right, groups, 0.95) == 80
    assert share(right, groups, 0.95) == clopper_pearson(int(right.sum()), 80, 0.95)
    assert interval_of_mean(numbers, 0.95, groups=groups) == interval_of_mean(numbers, 0.95)
    both = numbers[:, None], label[:, None]
    assert mean_auc(*both, 0.95, groups) == mean_auc(*both, 0.95)
    sure = numbers.sigmoid()
    assert calibration(sure, right, 0.95, groups) == calibration(sure, right, 0.95)
    of = {"least": -math.inf, "most": math.inf}
    assert jackknife(0.1, numbers, 0.95, **of, groups=groups) == jackknife(0.1, numbers, 0.95, **of)


def test_ten_copies_of_a_record_are_one_record() -> None:
    """Nothing that is said of it grows surer."""
    one, _ = latent(60, 1, 0.0, 3)
    copies, groups = one.repeat_interleave(10), torch.arange(60).repeat_interleave(10)
    for many, few in (
        (share(copies < 0.5, groups, 0.95), share(one < 0.5, None, 0.95)),
        (interval_of_mean(copies, 0.95, -9.0, 9.0, groups), interval_of_mean(one, 0.95, -9.0, 9.0)),
        (calibration(copies.sigmoid(), copies < 0.5, 0.95, groups).error,
         calibration(one.sigmoid(), one < 0.5, 0.95).error),
    ):  # fmt: skip
        assert many.value == pytest.approx(few.value)
        assert many.high - many.low >= 0.95 * (few.high - few.low)
    assert share(copies < 9, groups, 0.95).low == pytest.approx(share(one < 9, None, 0.95).low, abs=0.02)
