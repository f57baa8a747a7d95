"""Noisy counts of votes: what they cost, by three accountants, and what an adversary can tell from them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.stats import norm
from torch import Tensor

from dptrain.contracts import Budget, ConfigError
from dptrain.evidence.intervals import clopper_pearson
from dptrain.privacy.gaussian import gaussian_delta
from dptrain.privacy.guarantee import DPGuarantee
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.plan import Target
from dptrain.privacy.votes import VotesPlan, calibrated, noisy_counts, planned
from dptrain.privacy.written import plan_from_json, plan_to_json

PLAN = VotesPlan(
    units=1000, teachers=250, classes=10, questions=200, answers=200, noise_multiplier=40 / math.sqrt(2)
)
CONFIDENT = replace(PLAN, questions=500, threshold=150.0, check_ratio=5.0)


def plan(**changes: Any) -> VotesPlan:
    return replace(PLAN, **changes)


def source(number: int = 0) -> NoiseSource:
    return NoiseSource(number.to_bytes(32, "big"))


@pytest.mark.parametrize(
    "asked", [PLAN, plan(questions=1, answers=1), CONFIDENT, plan(adjacency="replace_one")]
)
def test_epsilon_is_that_of_the_closed_form_and_of_composed_events(asked: VotesPlan) -> None:
    epsilon = asked.loss().get_epsilon_for_delta(1e-5)
    assert gaussian_delta(asked.mu(), epsilon) == pytest.approx(1e-5, rel=1e-3)
    composed = PLDAccountant()
    composed.compose(asked.event())
    assert epsilon == pytest.approx(composed.get_epsilon(1e-5), rel=1e-3)
    by_renyi = RdpAccountant()
    by_renyi.compose(asked.event())
    assert epsilon <= by_renyi.get_epsilon(1e-5) <= 1.2 * epsilon


def test_two_hundred_labels_at_forty_votes_of_noise_are_the_published_budget() -> None:
    assert PLAN.mu() == pytest.approx(math.sqrt(2 * 200) / 40)
    assert PLAN.loss().get_epsilon_for_delta(1e-5) == pytest.approx(1.99, abs=0.005)


def test_a_check_costs_whatever_comes_of_it() -> None:
    per_answer, per_check = 2 / CONFIDENT.noise_std**2, 1 / CONFIDENT.check_std**2
    assert CONFIDENT.mu() ** 2 == pytest.approx(200 * per_answer + 500 * per_check)
    none = noisy_counts(torch.zeros(500, 10), replace(CONFIDENT, threshold=1e9), source())
    assert none.isnan().all()
    assert replace(CONFIDENT, threshold=1e9).mu() == CONFIDENT.mu()
    every = noisy_counts(torch.full((500, 10), 250.0), CONFIDENT, source())
    assert int((~every.isnan().any(1)).sum()) == CONFIDENT.answers


def test_one_record_in_place_of_another_changes_two_teachers() -> None:
    assert plan(adjacency="replace_one").mu() == 2 * PLAN.mu()


def test_the_first_questions_cost_less() -> None:
    spent = [PLAN.loss(steps).get_epsilon_for_delta(1e-5) for steps in (0, 1, 100, 200)]
    assert spent[0] == 0.0
    assert spent == sorted(spent)


@pytest.mark.parametrize(
    ("target", "mu"),
    [
        (Target(key="epsilon", most=2.0, at=1e-5), 0.5015),
        (Target(key="advantage", most=0.1, at=0.0), 2 * norm.ppf(0.55)),
        (Target(key="tpr_at_fpr", most=0.05, at=0.01), norm.ppf(0.05) - norm.ppf(0.01)),
    ],
)
@pytest.mark.parametrize("asked", [PLAN, CONFIDENT, plan(adjacency="replace_one")])
def test_noise_is_calibrated_to_just_below_the_target(asked: VotesPlan, target: Target, mu: float) -> None:
    found = calibrated(replace(asked, noise_multiplier=math.nan), target)
    assert found.mu() == pytest.approx(mu, rel=2e-3)
    assert 0.998 * target.most < target.spent(found.loss()) <= target.most


def test_too_little_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy.noise_multiplier=0.1 is too little"):
        plan(noise_multiplier=0.1).loss()


def test_the_plan_is_read_back_from_json() -> None:
    assert plan_from_json(plan_to_json(CONFIDENT)) == CONFIDENT


def test_counts_have_the_noise_that_is_stated() -> None:
    wide = plan(questions=2000, answers=2000)
    noise = noisy_counts(torch.zeros(2000, 10), wide, source())
    assert float(noise.std()) == pytest.approx(wide.noise_std, rel=0.03)
    assert abs(float(noise.mean())) < 4 * wide.noise_std / math.sqrt(noise.numel())


# ---------------------------------------------------------------------- what an adversary can tell

FEW = VotesPlan(units=100, teachers=50, classes=3, questions=20, answers=20, noise_multiplier=3.0)
WITHOUT = torch.tensor([[30.0, 15.0, 5.0]]).repeat(20, 1)
WITH = WITHOUT + torch.tensor([[-1.0, 1.0, 0.0]])  # a canary turns its teacher's vote on every input
TRIALS = 600


def true_positives(asked: VotesPlan) -> tuple[int, int]:
    """True and false positives of the best test between the two, its threshold fixed half-way."""
    towards = (WITH - WITHOUT) / (WITH - WITHOUT).norm()

    def score(counts: Tensor, trial: int) -> float:
        return float(((noisy_counts(counts, asked, source(trial)) - WITHOUT) * towards).sum())

    threshold = (WITH - WITHOUT).norm() / 2
    found = [
        sum(score(counts, first + trial) > threshold for trial in range(TRIALS))
        for first, counts in ((1, WITH), (10**6, WITHOUT))
    ]
    return found[0], found[1]


def bound(false_positives: int) -> float:
    upper = clopper_pearson(false_positives, TRIALS, 0.99).high
    return DPGuarantee(plan=FEW, budget=Budget(epsilon=None, delta=1e-5)).membership_tpr(upper)


def test_a_canary_is_told_by_noisy_counts_no_better_than_the_bound_and_nearly_as_well() -> None:
    hits, alarms = true_positives(FEW)
    assert clopper_pearson(hits, TRIALS, 0.99).low <= bound(alarms)
    assert hits / TRIALS > 0.95 * norm.cdf(FEW.mu() / 2)


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_a_canary_breaks_the_bound_where_there_is_less_noise_than_stated(noise_multiplier: float) -> None:
    hits, alarms = true_positives(replace(FEW, noise_multiplier=noise_multiplier))
    assert clopper_pearson(hits, TRIALS, 0.99).low > bound(alarms)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(epsilon=None, tpr_at_fpr=(0.01, 0.010001), delta=1e-5), "is too near to blind guessing"),
        (Budget(epsilon=600.0, delta=1e-5), r"privacy\.epsilon=600 protects nobody"),
    ],
)
def test_what_no_noise_reaches_is_refused_at_once(budget: Budget, said: str) -> None:
    target = Target.of(budget)
    assert target is not None
    with pytest.raises(ConfigError, match=said):
        calibrated(CONFIDENT, target)


@pytest.mark.parametrize("asked", [{"epsilon": 8.0}, {"epsilon": None, "noise_multiplier": 20.0}])
def test_a_delta_that_one_record_published_would_satisfy_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not below 1 / 10,000 for 10,000 records"):
        planned(replace(PLAN, units=10_000), Budget(delta=1e-4, **asked))
    assert planned(replace(PLAN, units=10_000), Budget(delta=9e-5, **asked)).noise_multiplier > 1.0
    assert (
        planned(replace(PLAN, units=10_000), Budget(delta=1e-4, units_public=False, **asked)).units == 10_000
    )
