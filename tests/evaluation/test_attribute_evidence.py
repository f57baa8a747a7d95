"""The judge of attribute inference: seldom a false alarm, a bound by membership, a control of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from dptrain.contracts import Attempt, Attributes, DataError, Leakage, Records, Sensitive
from dptrain.contracts.rounding import rounded_up
from dptrain.evaluation.games.attribute.game import paired_difference, score_attributes
from dptrain.evidence.intervals import clopper_pearson
from dptrain.evidence.verdict import (
    ABOVE,
    BROKEN,
    LEAKS,
    NO_CONTROL,
    RESISTED,
    TOO_WEAK,
    UNBOUNDED,
    WITHIN,
    kind,
)
from dptrain.report.leakage_words import sentence

COLUMN = Sensitive(name="sex", columns=(0, 1), values=torch.eye(2), names=("F", "M"))


@dataclass(frozen=True)
class Promise:
    """A guarantee of which only the bound on membership matters."""

    epsilon_: float = 3.0
    factor: float = 1.5

    delta = 1e-5

    def epsilon(self) -> float:
        return self.epsilon_

    def membership_tpr(self, fpr: float) -> float:
        return min(1.0, self.factor * fpr)


def probes_of(truth: Tensor) -> Records:
    return Records(torch.eye(2)[truth], torch.zeros(len(truth), dtype=torch.int64))


def named(right: Tensor, truth: Tensor) -> Tensor:
    """Guesses that are right where told, and wrong elsewhere."""
    return torch.where(right, truth, 1 - truth)


def found(attack: Tensor, imputed: Tensor, truth: Tensor) -> Attributes:
    return Attributes(guesses={"sex": named(attack, truth)}, imputed={"sex": named(imputed, truth)})


def judge(
    right: tuple[Tensor, Tensor],
    members: Tensor,
    *,
    control: tuple[Tensor, Tensor] | None = None,
    promise: Promise | None = None,
    truth: Tensor | None = None,
) -> tuple[Leakage, Leakage]:
    truth = torch.arange(len(members)) % 2 if truth is None else truth
    attempt = Attempt(
        attack="attribute_inference",
        interface="rounded",
        found=found(*right, truth),
        control=None if control is None else found(*control, truth),
        baseline=(),
    )
    advantage, on_members = score_attributes(
        attempt, (COLUMN,), probes_of(truth), members, promise or Promise(), confidence=0.95
    )
    return advantage, on_members


def share(count: int, of: int) -> Tensor:
    return torch.arange(of) < count


def halves(of: int) -> Tensor:
    return torch.arange(of) < of // 2


def test_without_leakage_alarms_are_seldom(rng) -> None:
    alarms = {"sex.advantage": 0, "sex.members": 0}
    for _ in range(400):
        members = torch.rand(160, generator=rng) < 0.5
        truth = torch.randint(2, (160,), generator=rng)
        # Attack and imputation mostly agree, and differ by chance alone, for members as for others.
        imputed = torch.rand(160, generator=rng) < 0.6
        turned = torch.rand(160, generator=rng) < torch.where(imputed, 0.2, 0.3)  # balances the two ways
        for line in judge((imputed ^ turned, imputed), members, promise=Promise(factor=1.0), truth=truth):
            alarms[line.metric] += kind(line.verdict) in (LEAKS, ABOVE, BROKEN)
    for metric, count in alarms.items():
        assert binomtest(count, 400, 0.05, alternative="greater").pvalue > 0.01, (metric, count)
    assert alarms["sex.advantage"] > 0  # the interval is no wider than it need be


def test_an_attack_that_names_members_only_is_found_on_both_lines() -> None:
    members = halves(200)
    nothing = torch.zeros(200, dtype=torch.bool)
    advantage, on_members = judge((members, nothing), members, promise=Promise(math.inf))
    assert (advantage.value.value, advantage.floor) == (1.0, 0.0)
    assert advantage.verdict.startswith(UNBOUNDED)
    assert advantage.value.low == pytest.approx(advantage.detection_limit)
    assert (on_members.value.value, on_members.floor, on_members.verdict) == (1.0, 0.0, UNBOUNDED)
    assert on_members.value.low == pytest.approx(on_members.detection_limit)
    assert (advantage.bound, on_members.bound) == (None, None)  # nothing is proved
    assert {advantage.interface, on_members.interface} == {"rounded"}
    assert (advantage.metric, on_members.metric) == ("sex.advantage", "sex.members")


def test_more_members_named_than_any_membership_test_may_find_is_a_broken_implementation() -> None:
    members = halves(200)
    right = members | (torch.arange(200) >= 190)  # all members, ten per cent of the others
    _, on_members = judge((right, right), members, promise=Promise(factor=2.0))
    upper = clopper_pearson(10, 100, 0.95).high
    assert on_members.bound == pytest.approx(2 * upper)
    assert on_members.verdict == BROKEN
    _, within = judge((right, right), members, promise=Promise(factor=5.8))
    assert within.verdict == WITHIN


def test_the_bound_is_taken_at_the_upper_end_so_that_luck_breaks_nothing() -> None:
    members = halves(80)
    right = torch.cat([share(22, 40), share(18, 40)])
    _, on_members = judge((right, right), members, promise=Promise(factor=1.0))
    assert on_members.bound is not None
    assert on_members.bound > on_members.details["non_member_accuracy"] == 18 / 40
    assert on_members.verdict == NO_CONTROL


def test_a_lucky_difference_is_no_leak() -> None:
    members = halves(80)
    right = torch.cat([share(28, 40), share(18, 40)])  # the value's lower end is above 0.45, the floor
    _, on_members = judge((right, right), members)
    assert on_members.value.low > on_members.floor
    assert on_members.verdict == NO_CONTROL
    assert rounded_up(on_members.details["non_member_accuracy_high"], 3) in on_members.notes


def test_the_control_is_held_against_its_own_non_members() -> None:
    members = halves(200)
    level = torch.arange(200) % 2 == 0
    sighted = members | level
    resisted = judge((level, level), members, control=(sighted, level))
    assert [kind(line.verdict) for line in resisted] == [kind(RESISTED)] * 2
    everywhere = torch.ones(200, dtype=torch.bool)  # right on its non-members too: no sign of membership
    weak = judge((level, level), members, control=(everywhere, everywhere))
    assert [kind(line.verdict) for line in weak] == [TOO_WEAK] * 2
    assert weak[1].details["control_non_member_accuracy"] == 1.0
    assert [kind(line.verdict) for line in judge((level, level), members)] == [NO_CONTROL] * 2


def test_advantage_counts_members_only() -> None:
    members = halves(200)
    advantage, _ = judge((torch.ones(200, dtype=torch.bool), members), members)
    assert advantage.value.value == 0.0
    assert advantage.detection_limit == 0.0  # imputation leaves nothing to gain
    assert advantage.value.high > 0.0
    assert (advantage.trials, advantage.details["imputation_accuracy"]) == (100, 1.0)


def test_the_detection_limit_is_what_righting_every_error_of_imputation_would_certify() -> None:
    members = halves(100)
    imputed = torch.cat([share(30, 50), share(30, 50)])
    best, _ = judge((torch.ones(100, dtype=torch.bool), imputed), members)
    lazy, _ = judge((imputed, imputed), members)
    assert best.value.value == pytest.approx(0.4)
    assert best.value.low == pytest.approx(best.detection_limit)
    assert lazy.detection_limit == best.detection_limit


def test_an_advantage_is_a_leak_where_mcnemars_exact_test_says_so() -> None:
    members = halves(100)
    for alone in range(21):
        first = share(alone, 20)
        right = torch.cat([first, first.new_ones(80)]), torch.cat([~first, first.new_ones(80)])
        advantage, _ = judge(right, members)
        found = advantage.value
        assert found.value == pytest.approx((2 * alone - 20) / 50)
        assert (kind(advantage.verdict) == LEAKS) == (alone > 10 and binomtest(alone, 20).pvalue < 0.05)
        assert found.low <= found.value <= found.high
        exact = binomtest(alone, 20, alternative="greater").pvalue
        assert advantage.details["p_value"] == pytest.approx(exact)
        assert f"p = {exact:.2g}" in advantage.verdict


def test_a_line_whose_interval_and_verdict_part_says_which_decides() -> None:
    members = halves(200)
    right = share(5, 200), share(0, 200)  # five of five: p = 1 / 32, and the score interval lies above 0
    advantage, _ = judge(right, members, control=right)
    assert advantage.value.low > 0.0
    assert kind(advantage.verdict) == TOO_WEAK
    said = sentence(advantage, void=False)
    assert "interval" not in said
    assert "right no more often than imputation, beyond chance (p = 0.031)" in said
    assert "exact test of the 5 records on which they differ decides" in advantage.notes


@pytest.mark.parametrize(
    ("count", "gained", "lost"), [(100, 0.05, 0.0), (200, 0.05, 0.0), (200, 0.1, 0.02), (500, 0.2, 0.05)]
)
def test_the_interval_of_an_advantage_holds_however_many_records_differ(
    rng: torch.Generator, count: int, gained: float, lost: float
) -> None:
    turns, held = 1000, 0
    for _ in range(turns):
        drawn = torch.rand(count, generator=rng)
        alone = drawn < gained
        found, _ = paired_difference(alone, (drawn >= gained) & (drawn < gained + lost), 0.95)
        held += found.low <= gained - lost <= found.high
    assert binomtest(held, turns, 0.95, alternative="less").pvalue > 0.001, held


def test_too_few_errors_of_imputation_for_its_test_could_certify_nothing() -> None:
    members = halves(100)
    few, _ = judge((torch.ones(100, dtype=torch.bool), ~share(5, 100)), members)
    assert (few.value.value, few.detection_limit) == (0.1, 0.0)
    some, _ = judge((torch.ones(100, dtype=torch.bool), ~share(6, 100)), members)
    assert some.detection_limit == some.value.low > 0.0
    assert kind(some.verdict) == LEAKS


def test_coins_that_all_fell_alike_leave_nothing_to_compare() -> None:
    everyone = torch.ones(20, dtype=torch.bool)
    with pytest.raises(DataError, match=r"all 20 probes are members: .* raise evidence.probes"):
        judge((everyone, everyone), everyone)
