"""Nearness to members: no alarm without leakage; restarts of a class, records of a patient, are one trial."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dptrain.contracts import Records, Splits
from dptrain.evaluation.games.class_inversion.near_members import Pool, Space, _pools, nearest_is_member

pytestmark = pytest.mark.run


def each_alone(records: Tensor, member: Tensor) -> Pool:
    """Each record a unit of its own."""
    return Pool(records=records, unit=torch.arange(len(records)), member=member)


def test_membership_without_meaning_raises_no_alarm():
    trials, level = 400, 0.05
    rng = torch.Generator().manual_seed(10)
    labels = torch.arange(3).repeat_interleave(6)
    alarms = 0
    for _ in range(trials):
        pools = [
            each_alone(torch.randn(40, 3, generator=rng), torch.randperm(40, generator=rng) < 20)
            for _ in range(3)
        ]
        # Some of the points crowd together, as restarts of one class do.
        points = torch.randn(18, 3, generator=rng) * torch.tensor([0.1, 1.0, 2.0])[labels][:, None]
        found = nearest_is_member(points, labels, pools, rng, confidence=0.95, permutations=1000)
        alarms += found.p_value <= level
    assert alarms / trials <= level + 3 * math.sqrt(level * (1 - level) / trials)


def test_points_that_name_one_record_are_one_trial():
    records = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    pools = [each_alone(records, torch.tensor([True, False, True, False]))]
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


def alarms(rng: torch.Generator, *, known: bool, repeats: int = 200) -> float:
    """How often p is at most 0.05 where nothing leaks: chance drew half of the patients."""
    found = 0
    for _ in range(repeats):
        own = torch.randn(20, 3, generator=rng)
        records = (own[:, None] + 0.2 * torch.randn(20, 10, 3, generator=rng)).reshape(200, 3)
        member = torch.randperm(20, generator=rng) < 10
        unit = torch.arange(20).repeat_interleave(10) if known else torch.arange(200)
        pool = Pool(records=records, unit=unit, member=member if known else member.repeat_interleave(10))
        near = torch.arange(40) % 6  # inversions are of six of them, whether they are members or not
        points = own[near] + 0.2 * torch.randn(40, 3, generator=rng)
        labels = torch.zeros(40, dtype=torch.int64)
        tested = nearest_is_member(points, labels, [pool], rng, confidence=0.95, permutations=200)
        assert tested.effective <= (20 if known else 40)
        found += tested.p_value <= 0.05
    return found / repeats


def test_false_alarms_are_as_rare_as_stated_where_patients_have_several_records(rng: torch.Generator) -> None:
    assert alarms(rng, known=True) <= 0.09
    assert alarms(rng, known=False) > 0.1


def test_a_pool_holds_all_records_of_as_many_members_as_others(splits: Splits, rng: torch.Generator) -> None:
    def of(count: int, each: int, first: int) -> tuple[Records, Tensor]:
        whose = torch.arange(count) // each
        inputs = (first + whose).float()[:, None, None, None].expand(-1, 1, 8, 8)
        return Records(inputs / 100, whose % 2), first + whose

    train, of_train = of(120, 5, 0)
    holdout, of_holdout = of(48, 4, 50)
    grouped = replace(
        splits, train=train, holdout=holdout, group_ids=of_train, holdout_group_ids=of_holdout,
        test=Records(torch.rand(80, 1, 8, 8, generator=rng), torch.arange(80) % 2), classes=("a", "b"),
    )  # fmt: skip
    space = Space(grouped, rng)
    for pool in _pools(grouped, space, rng):
        assert len(pool.member) == 12
        assert int(pool.member.sum()) == 6  # there are six held-out patients of a class
        counts = torch.bincount(pool.unit)
        assert set(counts[pool.member].tolist()) == {5}
        assert set(counts[~pool.member].tolist()) == {4}
        for unit in range(12):  # a unit is one patient: all of its images are alike here
            mine = pool.records[pool.unit == unit]
            assert torch.allclose(mine, mine[:1].expand_as(mine), atol=1e-6)
    alone = replace(grouped, group_ids=None, holdout_group_ids=None)
    for pool in _pools(alone, space, rng):
        assert sorted(pool.unit.tolist()) == list(range(48))
        assert int(pool.member.sum()) == 24
