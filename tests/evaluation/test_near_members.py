"""Nearness to members: no alarm without leakage, and restarts of one class are one trial."""

import math

import pytest
import torch

from dptrain.evaluation.games.class_inversion.near_members import nearest_is_member

pytestmark = pytest.mark.run


def test_membership_without_meaning_raises_no_alarm():
    trials, level = 400, 0.05
    rng = torch.Generator().manual_seed(10)
    labels = torch.arange(3).repeat_interleave(6)
    alarms = 0
    for _ in range(trials):
        pools = [
            (torch.randn(40, 3, generator=rng), torch.randperm(40, generator=rng) < 20) for _ in range(3)
        ]
        # Some of the points crowd together, as restarts of one class do.
        points = torch.randn(18, 3, generator=rng) * torch.tensor([0.1, 1.0, 2.0])[labels][:, None]
        found = nearest_is_member(points, labels, pools, rng, confidence=0.95, permutations=1000)
        alarms += found.p_value <= level
    assert alarms / trials <= level + 3 * math.sqrt(level * (1 - level) / trials)


def test_points_that_name_one_record_are_one_trial():
    records = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    pools = [(records, torch.tensor([True, False, True, False]))]
    rng = torch.Generator().manual_seed(11)
    crowd = nearest_is_member(
        torch.full((8, 1), 0.1), torch.zeros(8), pools, rng, confidence=0.95, permutations=4000
    )
    assert crowd.effective == 1.0
    assert crowd.interval.value == 1.0
    assert crowd.interval.low == pytest.approx(0.025)
    assert crowd.p_value == pytest.approx(0.5, abs=0.04)  # half of the records are members
    spread = nearest_is_member(
        torch.tensor([[0.1], [20.1]]), torch.zeros(2), pools, rng, confidence=0.95, permutations=4000
    )
    assert spread.effective == 2.0
    assert spread.p_value == pytest.approx(1 / 6, abs=0.03)  # both members, of six pairs
