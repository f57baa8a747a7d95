"""One-run audits: right by independent computation, calm without leakage, loud about broken noise."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import binom, norm

from dptrain.contracts import Attempt, Bets, ConfigError, NoiseSeen
from dptrain.evaluation.games.audit import scoring
from dptrain.evaluation.games.audit.scoring import auc, bet, noise_p_values, score_audit
from dptrain.evidence.one_run import (
    Inverse,
    certified_gaussian,
    certified_mu,
    certified_steinke,
    gaussian_epsilon,
    gaussian_shares,
    p_value_f,
    planned_guesses,
    rejects_f,
    steinke_p_value,
)
from dptrain.evidence.verdict import (
    ABOVE,
    BROKEN,
    BY_CHANCE,
    NO_CONTROL,
    RESISTED,
    TOO_WEAK,
    UNBOUNDED,
    WITHIN,
)

pytestmark = pytest.mark.run

DELTA = 1e-5


def gaussian_curve(mu):
    """Most true positives of a mu-Gaussian mechanism at a false-positive rate."""
    return lambda rate: float(norm.cdf(norm.ppf(rate) + mu))


def tangents_of(mu, count=3000):
    """Intercepts and slopes of lines whose minimum is, but for little, the mu-Gaussian curve."""
    z = np.linspace(-9, 9, count)
    slopes = np.exp(-mu * z - mu**2 / 2)
    return norm.cdf(z + mu) - slopes * norm.cdf(z), slopes


def tangents_of_dp(epsilon, delta):
    """The two lines of (epsilon, delta)-privacy and the flat one."""
    slopes = np.exp([epsilon, -epsilon, -np.inf])
    return np.array([delta, 1 - slopes[1] * (1 - delta), 1.0]), slopes


def most_probable(correct, guesses, canaries, tangents):
    """The largest P[W >= correct] under all the constraints r_{k+1} <= F(h_k), by linear programming."""
    j = np.arange(guesses + 1)
    rows, limits = [], []
    for k in range(guesses):
        right = np.where(j >= k + 1, j, 0) / canaries
        wrong = np.where(j >= k, guesses - j, 0) / canaries
        for intercept, slope in zip(*tangents, strict=True):
            scale = max(1.0, slope)
            rows.append((right - slope * wrong) / scale)
            limits.append(intercept / scale)
    found = linprog(
        -(j >= correct).astype(float),
        A_ub=np.array(rows),
        b_ub=np.array(limits),
        A_eq=np.ones((1, guesses + 1)),
        b_eq=[1.0],
    )
    assert found.status == 0
    return -found.fun


# --------------------------------------------------------------------------- the estimators


@pytest.mark.parametrize(
    ("correct", "guesses", "canaries", "mu"),
    [
        (8, 10, 10, 0.5),
        (10, 10, 10, 1.0),
        (7, 8, 30, 0.7),
        (12, 12, 60, 1.5),
        (15, 20, 25, 0.3),
        (6, 12, 12, 0.2),
    ],
)
def test_gaussian_p_values_agree_with_a_linear_programme(correct, guesses, canaries, mu):
    expected = most_probable(correct, guesses, canaries, tangents_of(mu, 400))
    found = p_value_f(correct, guesses, canaries, gaussian_curve(mu))
    assert found == pytest.approx(expected, rel=4e-3)


@pytest.mark.parametrize("canaries", [12, 40])
@pytest.mark.parametrize(("correct", "epsilon", "delta"), [(12, 0.5, 0.0), (11, 1.0, 1e-3), (9, 0.3, 0.01)])
def test_p_values_under_epsilon_delta_agree_with_a_linear_programme(correct, canaries, epsilon, delta):
    tangents = tangents_of_dp(epsilon, delta)
    expected = most_probable(correct, 12, canaries, tangents)
    curve = lambda rate: float((tangents[0] + tangents[1] * rate).min())  # noqa: E731
    found = p_value_f(correct, 12, canaries, curve)
    assert expected * (1 - 1e-6) <= found <= expected * 1.004


def test_a_p_value_is_the_level_at_which_the_curve_is_first_rejected():
    inverse = Inverse.of(gaussian_curve(0.8))
    p_value = p_value_f(70, 90, 200, gaussian_curve(0.8))
    assert rejects_f(70, 90, 200, inverse, p_value * 1.002)
    assert not rejects_f(70, 90, 200, inverse, p_value * 0.99)
    assert p_value_f(45, 90, 200, gaussian_curve(0.8)) == 1.0


def test_the_inverse_of_a_curve_is_never_overstated_and_nearly_exact():
    for mu in (0.1, 0.5, 2.0, 6.0):
        inverse = Inverse.of(gaussian_curve(mu))
        rates = np.concatenate([np.geomspace(1e-12, 0.5, 997), 1 - np.geomspace(1e-5, 0.5, 499)])
        for rate in rates.tolist():
            exact = float(norm.cdf(norm.ppf(rate) - mu))
            assert inverse(rate) <= exact * (1 + 1e-9)
            assert inverse(rate) >= exact * (1 - 1e-3) - 1e-15
    assert Inverse.of(lambda _: 1.0)(0.999) == 0.0  # nothing proved: true positives cost nothing


def test_everything_right_reaches_the_published_ceilings():
    """Steinke et al.'s estimator without delta: what so many guesses can certify at most, at 95 %."""
    for guesses, ceiling in {100: 3.49, 500: 5.11, 1000: 5.81, 5000: 7.42}.items():
        assert certified_steinke(guesses, guesses, guesses, 0.0, 0.95) == pytest.approx(ceiling, abs=0.005)
        assert certified_steinke(guesses, guesses, guesses, 1e-12, 0.95) <= ceiling + 0.005


def test_steinke_p_values_agree_with_the_theorem_written_out():
    correct, guesses, canaries, epsilon, delta = 61, 80, 300, 0.4, 1e-4
    pmf = binom(guesses, 1 / (1 + math.exp(-epsilon))).pmf(np.arange(guesses + 1))
    windows = [pmf[max(0, correct - i) : correct].sum() / i for i in range(1, canaries + 1)]
    expected = pmf[correct:].sum() + 2 * canaries * delta * max(windows)
    assert steinke_p_value(correct, guesses, canaries, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def test_the_gaussian_epsilon_is_the_published_theory_column():
    """Mahloujifar et al. 2025, Table 1 (which cuts digits off), noise 0.5, 1, 2 and 4."""
    for noise, theory in {0.5: 9.99, 1.0: 4.37, 2.0: 1.99, 4.0: 0.92}.items():
        assert theory <= gaussian_epsilon(1 / noise, DELTA) < theory + 0.01
    for mu in (0.01, 0.3, 5.0, 60.0):
        epsilon = gaussian_epsilon(mu, DELTA)
        spent = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
        assert spent == pytest.approx(DELTA, rel=1e-4)
    assert gaussian_epsilon(0.0, DELTA) == gaussian_epsilon(1e-6, DELTA) == 0.0


def test_more_right_bets_certify_more_and_a_surer_word_less():
    epsilons = [certified_gaussian(v, 100, 500, DELTA, 0.95) for v in range(40, 101, 5)]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == 0.0 < epsilons[-1]
    assert certified_gaussian(80, 100, 500, DELTA, 0.99) < certified_gaussian(80, 100, 500, DELTA, 0.95)
    steinke = [certified_steinke(v, 100, 500, DELTA, 0.95) for v in (0, 50, 70, 90)]
    assert steinke == sorted(steinke)
    assert steinke[:2] == [0.0, 0.0]
    assert certified_steinke(90, 100, 500, DELTA, 0.95) < certified_gaussian(90, 100, 500, DELTA, 0.95)


# --------------------------------------------------------------------------- the plan


def test_the_plan_is_even_within_the_canaries_and_near_the_best_number():
    for canaries in (2, 3, 17, 2001):
        for mu in (0.0, 0.5, 3.0, 10.0):
            planned = planned_guesses(mu, canaries, 0.95)
            assert planned % 2 == 0
            assert 2 <= planned <= canaries

    def average(guesses):
        share = gaussian_shares(0.7, np.array([guesses / 2 / 1500]))[0]
        chances = binom(guesses, share).pmf(np.arange(guesses + 1))
        likely = np.flatnonzero(chances > 1e-3)
        return sum(chances[v] * certified_mu(int(v), guesses, 1500, 0.95) for v in likely)

    planned = average(planned_guesses(0.7, 1500, 0.95))
    assert planned > 0.98 * max(average(guesses) for guesses in range(20, 1500, 40))
    assert planned > 1.2 * average(1500)


def test_shares_of_right_bets_are_those_of_a_simulation():
    rng = np.random.default_rng(0)
    members = rng.random(400_000) < 0.5
    ranked = members[np.argsort(rng.standard_normal(400_000) + 0.8 * members)]
    share = (np.mean(~ranked[:20_000]) + np.mean(ranked[-20_000:])) / 2
    assert gaussian_shares(0.8, np.array([0.05]))[0] == pytest.approx(share, abs=0.01)


# --------------------------------------------------------------------------- bets


def test_bets_count_both_ends(rng):
    scores = torch.tensor([0.1, 3.0, 2.0, -1.0, 0.5, -2.0])
    members = torch.tensor([True, True, False, False, True, True])
    assert [bet(scores, members, guesses, rng) for guesses in (2, 4, 6)] == [1, 2, 3]
    assert auc(scores, members) == pytest.approx(0.5)


def test_ties_are_broken_by_lot_not_by_position(rng):
    members = torch.arange(1000) >= 500  # a position that tells the coin
    rights = [bet(torch.zeros(1000), members, 200, rng) for _ in range(50)]
    assert 95 < np.mean(rights) < 105
    assert len(set(rights)) > 10
    assert auc(torch.zeros(1000), members) == 0.5


def test_a_score_that_is_no_number_is_refused(rng):
    with pytest.raises(AssertionError, match="no number"):
        bet(torch.tensor([1.0, math.nan]), torch.tensor([True, False]), 2, rng)


# --------------------------------------------------------------------------- false alarms


def most_alarms(trials):
    """The 99.9 % quantile of the number of false alarms where each has probability 5 %."""
    return int(binom.ppf(0.999, trials, 0.05))


def test_without_leakage_false_alarms_are_rare(rng):
    trials, canaries, guesses = 600, 300, 100
    gaussian, steinke = (
        lru_cache(lambda v, f=f: f(v, guesses, canaries, DELTA, 0.95) > 0)
        for f in (certified_gaussian, certified_steinke)
    )
    own = lru_cache(lambda v: p_value_f(v, guesses, canaries, lambda rate: rate) < 0.05)
    alarms = np.zeros(3)
    for _ in range(trials):
        members = torch.rand(canaries, generator=rng) < 0.5
        right = bet(torch.rand(canaries, generator=rng), members, guesses, rng)
        alarms += [gaussian(right), steinke(right), own(right)]
    assert (alarms <= most_alarms(trials)).all(), alarms
    assert alarms[0] > 0  # so that the count counts something


def test_a_mechanism_at_its_bound_seldom_exceeds_it(rng):
    trials, canaries, mu = 400, 400, 1.0
    guesses = planned_guesses(mu, canaries, 0.95)
    over = lru_cache(lambda v: certified_mu(v, guesses, canaries, 0.95) > mu)
    alarms = 0
    for _ in range(trials):
        members = torch.rand(canaries, generator=rng) < 0.5
        scores = torch.randn(canaries, generator=rng) + mu * members
        alarms += over(bet(scores, members, guesses, rng))
    assert alarms <= most_alarms(trials)


def test_picking_the_number_of_guesses_afterwards_would_be_caught(rng):
    """The test of false alarms has teeth: it fails for the best of many numbers of guesses."""
    trials, canaries = 200, 300
    certifies = lru_cache(maxsize=None)(lambda v, r: certified_mu(v, r, canaries, 0.95) > 0)
    alarms = 0
    for _ in range(trials):
        members = torch.rand(canaries, generator=rng) < 0.5
        scores = torch.rand(canaries, generator=rng)
        alarms += any(certifies(bet(scores, members, r, rng), r) for r in range(10, 301, 10))
    assert alarms > most_alarms(trials)


def noise_seen(noise):
    """What an attack would report of this noise, (steps, coordinates), over its declared size."""
    steps, coordinates = noise.shape
    summed = noise.sum(0) / math.sqrt(steps)
    return NoiseSeen(
        each=float(noise.square().mean()),
        summed=float(summed.square().mean()),
        steps=steps,
        coordinates=coordinates,
    )


def test_noise_p_values_are_calm_about_honest_noise_and_not_about_other(rng):
    trials = 400
    alarms = np.zeros(2)
    for _ in range(trials):
        found = noise_p_values(noise_seen(torch.randn(20, 50, generator=rng)))
        alarms += [found["noise_p_value"] < 0.05, found["repeated_noise_p_value"] < 0.05]
    assert (alarms <= most_alarms(trials)).all(), alarms
    assert (alarms > 0).all()
    honest = torch.randn(20, 200, generator=rng)
    assert noise_p_values(noise_seen(0.9 * honest))["noise_p_value"] < 1e-6
    assert noise_p_values(noise_seen(honest))["repeated_noise_p_value"] > 1e-6
    repeated = noise_p_values(noise_seen(honest[:1].expand(20, 200)))
    assert repeated["repeated_noise_p_value"] < 1e-6
    assert noise_p_values(noise_seen(0.9 * honest))["noise_std"] == pytest.approx(0.9, abs=0.02)


# --------------------------------------------------------------------------- the judge


@dataclass(frozen=True)
class Promise:
    """A guarantee whose trade-off curve is mu-Gaussian; an infinite mu proves nothing."""

    mu: float
    delta: float = DELTA

    def epsilon(self):
        return gaussian_epsilon(self.mu, self.delta) if math.isfinite(self.mu) else math.inf

    def membership_tpr(self, rate):
        return gaussian_curve(self.mu)(rate)


@pytest.fixture
def members(rng):
    return torch.rand(400, generator=rng) < 0.5


def judge(members, scores, rng, *, mu=1.0, control=None, on="canaries", noise=None, guesses=None):
    bets = Bets(scores=scores, guesses=guesses, noise=noise)
    twin = None if control is None else Bets(scores=control)
    attempt = Attempt(attack="audit", interface="labels", found=bets, control=twin, baseline=())
    return score_audit(attempt, members, Promise(mu), on=on, rng=rng, confidence=0.95)


def told(members, mu, rng):
    return torch.randn(len(members), generator=rng) + mu * members


def test_a_mechanism_that_leaks_what_it_may_leaks_and_is_not_broken(members, rng):
    found = judge(members, told(members, 1.0, rng), rng)
    assert found.verdict == WITHIN
    assert 0 < found.value.low == found.value.value < found.bound == pytest.approx(4.377, abs=0.001)
    assert found.value.high == math.inf
    assert (found.metric, found.floor, found.interface) == ("certified_epsilon", 0.0, "labels")
    assert found.trials == found.details["guesses"] == planned_guesses(1.0, 400, 0.95)
    assert found.value.value == certified_gaussian(
        int(found.details["correct"]), found.trials, 400, DELTA, 0.95
    )
    assert found.detection_limit == certified_gaussian(found.trials, found.trials, 400, DELTA, 0.95)
    assert 0 < found.details["steinke"] < found.value.value
    assert found.details["canaries"] == 400
    assert found.details["p_value_of_guarantee"] > 0.05
    assert 0.65 < found.details["auc"] < 0.85
    assert "planned" in found.notes
    assert "canaries" in found.notes


def test_more_leakage_than_the_guarantee_allows_is_broken(members, rng):
    found = judge(members, told(members, 4.0, rng), rng, mu=0.5)
    assert found.verdict == BROKEN
    assert found.value.low > found.bound
    assert found.details["p_value_of_guarantee"] < BY_CHANCE
    assert "own trade-off curve" in found.notes


def test_a_curve_that_is_rejected_is_broken_where_the_epsilon_is_not(members, rng, monkeypatch):
    quiet = told(members, 0.5, rng)
    assert judge(members, quiet, rng).verdict == WITHIN
    for p_value, verdict in {0.9e-4: BROKEN, 1.1e-4: ABOVE, 0.024: ABOVE, 0.026: WITHIN}.items():
        monkeypatch.setattr(scoring, "p_value_f", lambda *_, p=p_value: p)
        assert judge(members, quiet, rng).verdict == verdict


def test_too_little_noise_and_repeated_noise_are_broken(members, rng):
    blind = torch.rand(400, generator=rng)
    honest = torch.randn(30, 200, generator=rng)
    assert judge(members, blind, rng, noise=noise_seen(honest)).verdict == NO_CONTROL
    little = judge(members, blind, rng, noise=noise_seen(0.9 * honest))
    assert little.verdict == BROKEN
    assert "times what is declared" in little.notes
    repeated = judge(members, blind, rng, noise=noise_seen(honest[:1].expand(30, 200)))
    assert repeated.verdict == BROKEN
    assert "repeats itself" in repeated.notes
    assert set(repeated.details) >= {"noise_std", "noise_p_value", "repeated_noise_p_value"}


def test_the_control_says_whether_the_attack_could_see(members, rng):
    blind = torch.rand(400, generator=rng)
    assert judge(members, blind, rng).verdict == NO_CONTROL
    resisted = judge(members, blind, rng, control=told(members, 6.0, rng))
    assert resisted.verdict == RESISTED
    assert resisted.control.low > 0
    assert judge(members, blind, rng, control=blind).verdict == TOO_WEAK


def test_where_nothing_is_proved_there_is_no_bound(members, rng):
    found = judge(members, told(members, 8.0, rng), rng, mu=math.inf, on="probes")
    assert found.bound is None
    assert found.verdict == UNBOUNDED
    assert found.trials == planned_guesses(10.0, 400, 0.95)
    assert found.details["p_value_of_guarantee"] == 1.0
    assert "natural records" in found.notes


def test_a_number_of_guesses_is_taken_as_given_or_refused(members, rng):
    found = judge(members, told(members, 1.0, rng), rng, guesses=60)
    assert found.trials == 60
    assert "fixed by the attack" in found.notes
    for guesses in (0, 61, 402):
        with pytest.raises(ConfigError, match=f"attack.audit.guesses={guesses}"):
            judge(members, told(members, 1.0, rng), rng, guesses=guesses)
