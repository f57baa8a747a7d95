"""The judge of reconstructions: seldom a false alarm, never a blind eye."""

import math
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import binomtest

from dptrain.contracts import Attempt, Guesses
from dptrain.evaluation.games.reconstruction.game import score_reconstruction
from dptrain.evidence.intervals import clopper_pearson
from dptrain.evidence.verdict import (
    ABOVE,
    BROKEN,
    BY_CHANCE,
    LEAKS,
    NO_CONTROL,
    RESISTED,
    TOO_WEAK,
    UNBOUNDED,
    WITHIN,
    kind,
)

pytestmark = pytest.mark.run


@dataclass(frozen=True)
class Promise:
    """A guarantee of which only the bound matters."""

    bound: float
    spent: float = 1.0

    def epsilon(self):
        return self.spent

    def reconstruction_bound(self, _):
        return self.bound


def judge(released, truth, *, control=None, bound=0.3, spent=1.0, candidates=10, effective=None):
    found = Guesses(guesses=released, effective_slots=effective)
    attempt = Attempt(attack="attack", interface="", found=found, control=control, baseline=())
    return score_reconstruction(attempt, truth, candidates, Promise(bound, spent), confidence=0.95)


def truth_of(rng, slots=40, candidates=10):
    return torch.randint(candidates, (slots,), generator=rng)


def wrong(truth):
    return (truth + 1) % 10


def test_blind_guesses_seldom_raise_an_alarm(rng):
    leaks = broken = 0
    for _ in range(400):
        truth = truth_of(rng)
        found = judge(truth_of(rng), truth, bound=0.12)
        leaks += kind(found.verdict) in (LEAKS, ABOVE)
        broken += found.verdict == BROKEN
    assert binomtest(leaks + broken, 400, 0.05, alternative="greater").pvalue > 0.01
    assert binomtest(broken, 400, BY_CHANCE, alternative="greater").pvalue > 0.01


def test_right_guesses_above_the_bound_are_a_broken_implementation(rng):
    truth = truth_of(rng)
    found = judge(truth, truth)
    assert (found.value.value, found.verdict) == (1.0, BROKEN)
    assert found.value.low == found.detection_limit > 0.3
    assert found.detection_limit == pytest.approx(clopper_pearson(40, 40, 0.95).low)


def test_right_guesses_below_the_bound_are_a_leak(rng):
    truth = truth_of(rng)
    assert judge(truth, truth, bound=0.99).verdict == WITHIN


def test_the_control_says_whether_the_attack_could_see(rng):
    truth = truth_of(rng)
    blind, sighted = Guesses(guesses=wrong(truth)), Guesses(guesses=truth)
    assert judge(wrong(truth), truth).verdict == NO_CONTROL
    assert judge(wrong(truth), truth, control=sighted).verdict == RESISTED
    assert judge(wrong(truth), truth, control=blind).verdict == TOO_WEAK


def test_slots_that_hang_together_are_worth_fewer(rng):
    truth = truth_of(rng)
    alone, together = judge(truth, truth), judge(truth, truth, effective=1.5)
    assert together.value.value == alone.value.value == 1.0
    assert together.value.low < 0.2 < alone.value.low
    assert together.details["effective_trials"] == 1.5
    assert together.verdict != BROKEN
    assert (together.trials, alone.trials) == (40, 40)


def test_floor_is_blind_guessing_and_no_promise_is_no_bound(rng):
    truth = truth_of(rng)
    found = judge(truth, truth, spent=math.inf)
    assert found.floor == pytest.approx(0.1)
    assert found.bound is None
    assert found.verdict == UNBOUNDED
