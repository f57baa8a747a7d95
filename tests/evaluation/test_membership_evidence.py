"""The judge of membership inference: right counts, honest intervals, seldom a false alarm."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import pytest
import torch
from scipy.stats import beta, binomtest, expon, norm
from sklearn.metrics import roc_auc_score, roc_curve

from dptrain.contracts import Attempt, Budget, Records, Scores
from dptrain.evaluation.games.membership.game import auc_bound, counts_at, score_membership
from dptrain.evaluation.scorer import exposure
from dptrain.evidence.intervals import auc, clopper_pearson, delong
from dptrain.evidence.probes import ProbeAssignment
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
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee

pytestmark = pytest.mark.run

NORMAL = NormalDist()  # quicker than scipy's, one number at a time
METRICS = ["auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"]


@dataclass(frozen=True)
class Gaussian:
    """The guarantee of the mu-Gaussian mechanism, in closed form."""

    mu: float

    def epsilon(self):
        return 1.0

    def membership_tpr(self, fpr):
        return 1.0 if fpr >= 1.0 else NORMAL.cdf(NORMAL.inv_cdf(fpr) + self.mu)


def coins(rng, count):
    return torch.randint(2, (count,), generator=rng).bool()


def draws(rng, members, mu):
    """Scores N(mu, 1) of members, N(0, 1) of others: the most that mu-GDP allows."""
    return torch.randn(len(members), generator=rng, dtype=torch.float64) + mu * members


def judge(scores, members, guarantee, *, control=None, confidence=0.95):
    attempt = Attempt(
        attack="attack",
        interface="as is",
        found=Scores(scores=scores),
        control=None if control is None else Scores(scores=control),
        baseline=(),
    )
    return score_membership(attempt, members, guarantee, confidence=confidence)


# ------------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize("digits", [8, 1, 0])
def test_the_numbers_are_those_of_scikit_learn(rng, digits):
    """Ties, from many to none."""
    for count in (40, 201, 1500):
        members = coins(rng, count)
        scores = draws(rng, members, 1.0).round(decimals=digits)
        assert auc(scores, members, 0.95).value == pytest.approx(roc_auc_score(members, scores))
        fpr, tpr, _ = roc_curve(members, scores, drop_intermediate=False)
        for rate in (0.05, 0.1, 0.25):
            found = counts_at(scores, members, rate, 0.95)
            within = fpr <= rate + 1e-12
            assert found.true_positives / found.members == pytest.approx(tpr[within].max())
            assert found.fpr_realised == pytest.approx(fpr[within].max())


def test_the_variance_is_DeLongs(rng):
    """Against the definition, pair by pair, and against resampling."""
    members = coins(rng, 120)
    scores = draws(rng, members, 1.0).round(decimals=1)
    inside, outside = scores[members], scores[~members]
    wins = (inside[:, None] > outside).double() + (inside[:, None] == outside).double() / 2
    expected = wins.mean(1).var() / len(inside) + wins.mean(0).var() / len(outside)
    area, variance = delong(scores, members)
    assert (area, variance) == pytest.approx((float(wins.mean()), float(expected)))
    resampled = torch.stack(
        [
            wins[torch.randint(len(inside), (len(inside),), generator=rng)][
                :, torch.randint(len(outside), (len(outside),), generator=rng)
            ].mean()
            for _ in range(2000)
        ]
    )
    assert variance == pytest.approx(float(resampled.var()), rel=0.15)


def test_a_whole_number_of_false_positives_is_reached(rng):
    members = torch.arange(40_000) >= 30_000
    scores = torch.randn(40_000, generator=rng)
    for rate, divisor in ((0.01, 100), (0.001, 1000)):
        for strangers in range(divisor, 30_001, 10 * divisor):
            taken = torch.cat([torch.arange(strangers), torch.arange(30_000, 40_000)])
            assert (
                counts_at(scores[taken], members[taken], rate, 0.95).false_positives == strangers // divisor
            )


@pytest.mark.parametrize("mu", [0.0, 1.0, 3.0])
def test_the_bound_on_the_auc_is_the_area_and_never_too_low(mu):
    exact = norm.cdf(mu / math.sqrt(2))
    assert exact <= auc_bound(Gaussian(mu)) < exact + 1e-3


# ------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize(("count", "area"), [(24, 0.5), (100, 0.75), (100, 0.97), (400, 0.9)])
def test_intervals_of_the_auc_cover(rng, count, area):
    mu, low, high = norm.ppf(area) * math.sqrt(2), 0, 0
    for _ in range(600):
        members = coins(rng, count)
        found = auc(draws(rng, members, mu), members, 0.95)
        low += found.low > area
        high += found.high < area
    for missed in (low, high):
        assert binomtest(missed, 600, 0.025, alternative="greater").pvalue > 0.005


def test_an_auc_of_one_is_as_sure_as_so_many_trials(rng):
    members = torch.arange(50) < 20
    assert auc(members.double(), members, 0.95).low == pytest.approx(clopper_pearson(20, 20, 0.95).low)
    assert auc(-members.double(), members, 0.95).high == pytest.approx(clopper_pearson(0, 20, 0.95).high)
    assert auc(torch.zeros(50), members, 0.95).low < 0.3  # all tied: no variance, no certainty
    found = auc(draws(rng, members, 4.0), members, 0.95)
    assert 0.7 < found.low < found.value


def test_a_handful_that_stand_out_raise_no_alarm(rng):
    """All others tied: with four of them, the normal approximation is wrong 6 times in 100."""
    alarms = 0
    for _ in range(1000):
        scores = torch.zeros(100)
        scores[:4] = -1.0
        alarms += auc(scores, coins(rng, 100), 0.95).low > 0.5
    assert binomtest(alarms, 1000, 0.025, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("step", [None, 0.5, 2.0])
def test_the_thresholds_rate_on_others_is_covered(rng, step):
    """Exponential scores; rounded down, they have atoms, of which whole ones are let in or kept out."""
    missed, members = 0, torch.zeros(300, dtype=torch.bool)
    for _ in range(1000):
        outside = torch.empty(300, dtype=torch.float64).exponential_(generator=rng)
        if step is not None:
            outside = (outside / step).floor() * step
        threshold = outside.sort(descending=True).values[3]
        true_rate = expon.sf(threshold if step is None else threshold + step)
        missed += true_rate > counts_at(outside, members, 0.01, 0.95).fpr_upper
    assert binomtest(missed, 1000, 0.025, alternative="greater").pvalue > 0.01
    if step is None:  # and no wider than need be
        assert binomtest(missed, 1000, 0.025).pvalue > 0.01


# ------------------------------------------------------------------------------------ verdicts


@pytest.fixture(scope="module")
def gaussian_of():
    """One full batch with noise 1 / mu: exactly the mu-Gaussian mechanism."""

    def build(mu):
        plan = DPSGDPlan(
            units=100,
            sample_rate=1.0,
            steps=1,
            expected_batch_size=100,
            max_grad_norm=1.0,
            noise_multiplier=1 / mu,
        )
        return DPGuarantee(plan=plan, budget=Budget(epsilon=None, delta=1e-5, noise_multiplier=1 / mu))

    return build


def count_verdicts(rng, trials, probes, guarantee, mu, wanted, digits=None):
    """How often each metric was given this verdict on the strongest scores that mu allows."""
    found = dict.fromkeys(METRICS, 0)
    for _ in range(trials):
        members = coins(rng, probes)
        scores = draws(rng, members, mu)
        lines = judge(scores if digits is None else scores.round(decimals=digits), members, guarantee)
        assert [line.metric for line in lines] == METRICS
        for line in lines:
            found[line.metric] += line.verdict == wanted
    return found


@pytest.mark.parametrize("digits", [None, 1])
def test_scores_that_know_nothing_seldom_raise_an_alarm(rng, digits):
    nothing = NoGuarantee(budget=Budget(epsilon=None, delta=1e-5))
    alarms = count_verdicts(rng, 400, 2200, nothing, 0.0, UNBOUNDED, digits)
    for metric in METRICS:
        assert binomtest(alarms[metric], 400, 0.05, alternative="greater").pvalue > 0.01, metric


def test_a_tight_mechanism_is_seldom_called_broken(rng):
    for word, rate in ((BROKEN, BY_CHANCE), (ABOVE, 0.05)):
        found = count_verdicts(rng, 300, 2200, Gaussian(1.0), 1.0, word)
        for metric in METRICS:
            assert binomtest(found[metric], 300, rate, alternative="greater").pvalue > 0.01, (word, metric)


def test_a_plan_without_sampling_is_bounded_as_the_gaussian_is(rng, gaussian_of):
    scores, members = scored(rng, 1.0)
    exact, closed = judge(scores, members, gaussian_of(1.0)), judge(scores, members, Gaussian(1.0))
    for one, other in zip(exact, closed, strict=True):
        assert one.bound == pytest.approx(other.bound, abs=5e-3)
        assert one.verdict == other.verdict == WITHIN


def scored(rng, mu, probes=2200):
    members = coins(rng, probes)
    return draws(rng, members, mu), members


def test_more_than_was_promised_is_called_broken(rng, gaussian_of):
    lines = judge(*scored(rng, 3.0), gaussian_of(1.0))
    assert [line.verdict for line in lines] == [BROKEN] * 3
    for line in lines:
        assert line.value.low > line.bound


def test_a_threshold_is_read_at_the_rate_that_it_may_have(rng):
    scores, members = scored(rng, 2.0)
    _, line, rarer = judge(scores, members, Gaussian(2.0))
    strangers = int((~members).sum())
    assert line.details["false_positives"] == strangers // 100
    assert rarer.details["false_positives"] == 1
    upper = beta.ppf(0.975, strangers // 100 + 1, strangers - strangers // 100)
    assert line.floor == line.details["fpr_upper"] == pytest.approx(upper)
    assert line.bound == pytest.approx(Gaussian(2.0).membership_tpr(upper))
    assert line.details["bound_at_fpr_asked"] == pytest.approx(Gaussian(2.0).membership_tpr(0.01))
    assert line.value == clopper_pearson(int(line.details["true_positives"]), int(members.sum()), 0.95)
    assert f"{strangers // 100} of {strangers} non-members" in line.notes


def test_a_zero_is_read_beside_the_twin(rng):
    scores, members = scored(rng, 0.0)
    strong = draws(rng, members, 3.0)
    nothing = Gaussian(2.0)
    assert {line.verdict for line in judge(scores, members, nothing)} == {NO_CONTROL}
    assert {line.verdict for line in judge(scores, members, nothing, control=scores)} == {TOO_WEAK}
    assert {line.verdict for line in judge(scores, members, nothing, control=strong)} == {RESISTED}
    assert {line.verdict for line in judge(strong, members, Gaussian(4.0), control=strong)} == {WITHIN}


def test_a_rate_that_the_non_members_cannot_resolve_is_left_out(rng):
    members = torch.arange(1500) >= 999
    lines = judge(torch.randn(1500, generator=rng), members, Gaussian(1.0))
    assert [line.metric for line in lines] == METRICS[:2]
    assert "TPR at FPR 0.1 % needs at least 1,000 non-members, there are 999" in lines[0].notes
    one_more = torch.arange(1500) >= 1000
    lines = judge(torch.randn(1500, generator=rng), one_more, Gaussian(1.0))
    assert [line.metric for line in lines] == METRICS
    assert "needs" not in lines[0].notes
    (only,) = judge(torch.randn(60, generator=rng), torch.arange(60) < 30, Gaussian(1.0))
    assert "FPR 1 % needs at least 100 non-members, there are 30" in only.notes


def test_without_a_guarantee_there_is_no_bound(rng):
    scores, members = scored(rng, 1.0)
    for line in judge(scores, members, NoGuarantee(budget=Budget(epsilon=None, delta=1e-5))):
        assert line.bound is None
        assert "bound_at_fpr_asked" not in line.details
        assert line.verdict == UNBOUNDED
        assert line.interface == "as is"


def test_the_detection_limit_is_what_a_perfect_attack_certifies():
    members = torch.arange(2200) < 1100
    for line in judge(members.double(), members, Gaussian(9.0)):
        assert line.value.low == pytest.approx(line.detection_limit)
        assert line.value.low > 0.99


# ------------------------------------------------------------------------------------ record by record


def test_the_most_exposed_record_comes_first():
    members = torch.tensor([True, False, True, False, True, False, True])
    drawing = ProbeAssignment(
        probes=Records(torch.zeros(7, 1), torch.arange(7)),
        members=members,
        positions=(0, 1, 2, 3),
        mislabelled=torch.arange(7) == 4,
        origin=tuple(f"train {10 + n}" for n in range(7)),
    )
    loss = torch.tensor([0.5, 0.0, 2.0, 1.0, 9.0, 2.0, -1.0])  # others score 0, 1 and 2
    lira = torch.tensor([5.0, 3.0, 5.0, 2.0, 0.0, 1.0, 0.0])  # 3, 2 and 1
    found = exposure({"loss": Scores(scores=loss), "lira": Scores(scores=lira)}, drawing)
    assert [row.record for row in found] == ["train 12", "train 10", "train 14", "train 16"]
    first, _, third, last = found
    assert first.percentile == pytest.approx({"loss": 2 / 3, "lira": 1.0})  # a tie is not below
    assert first.score == {"loss": 2.0, "lira": 5.0}
    assert third.percentile == {"loss": 1.0, "lira": 0.0}
    assert third.label == 4
    assert set(last.percentile.values()) == {0.0}
