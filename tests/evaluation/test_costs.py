"""What privacy costs whom: found where it was planted, nowhere else, and nothing of small subgroups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dptrain.contracts import Cost, Records, Splits, Utility
from dptrain.evaluation.costs import LEAST, POOLED, by_subgroup, costs, of_enough, pooled
from dptrain.evidence.intervals import clopper_pearson
from dptrain.tasks import Classification, MultiLabel


def splits_of(labels: Tensor, **subgroups: list[str]) -> Splits:
    records = Records(torch.zeros(len(labels), 2), labels)
    return Splits(
        name="made up",
        source="here",
        train=records,
        holdout=records,
        test=records,
        classes=("well", "ill"),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        std=(0.5,),
        subgroups={name: tuple(values) for name, values in subgroups.items()},
    )


def utility(right: Tensor, labels: Tensor) -> Utility:
    share = clopper_pearson(int(right.sum()), len(labels), 0.95)
    return Utility(accuracy=share, auroc=share, loss=0.5, records=len(labels), scores=right.double())


def worse(found: tuple[Cost, ...]) -> set[str]:
    return {each.name for each in found if each.excess is not None and each.excess.high < 0}


def drawn(rng: torch.Generator, *, planted: float, count: int = 800) -> tuple[Cost, ...]:
    """Costs of a release that is wrong on one record in ten, and on more of those from scanner B."""
    labels = torch.randint(2, (count,), generator=rng)
    scanner, lot = (torch.rand(count, generator=rng) < 0.06 for _ in range(2))
    chance = torch.rand(2, count, generator=rng)
    control, release = chance[0] > 0.05, chance[1] > 0.1 + planted * scanner
    named = [["B" if each else "A" for each in chosen.tolist()] for chosen in (scanner, lot)]
    splits = splits_of(labels, scanner=named[0], lot=named[1])
    return costs(utility(release, labels), utility(control, labels), splits, 0.95)


def test_a_planted_effect_is_found_and_none_where_none_was_planted(rng: torch.Generator) -> None:
    trials = 15
    planted = [drawn(rng, planted=0.6) for _ in range(trials)]
    scanner = [next(c for c in found if (c.by, c.name) == ("scanner", "B")) for found in planted]
    assert sum(c.excess is not None and c.excess.high < 0 for c in scanner) >= 0.9 * trials
    false = [bool(worse(drawn(rng, planted=0.0))) for _ in range(trials)]
    assert sum(false) <= 4  # at most 5 % of them: more than 4 in 15 once in 2,000


def test_a_cost_is_the_difference_on_the_same_records(rng: torch.Generator) -> None:
    labels = torch.arange(60) % 2
    release, control = torch.rand(60, generator=rng) > 0.4, torch.rand(60, generator=rng) > 0.1
    site = ["north" if at < 24 else "south" for at in range(60)]
    splits = splits_of(labels, site=site)
    found = {
        (c.by, c.name): c for c in costs(utility(release, labels), utility(control, labels), splits, 0.9)
    }
    assert list(found) == [
        ("all", ""),
        ("class", "well"),
        ("class", "ill"),
        ("site", "north"),
        ("site", "south"),
    ]
    apart = release.double() - control.double()
    north = found["site", "north"]
    assert north.records == 24
    assert north.release.value == pytest.approx(float(release[:24].double().mean()))
    assert north.difference.value == pytest.approx(float(apart[:24].mean()))
    assert north.excess is not None
    assert north.excess.value == pytest.approx(float(apart[:24].mean() - apart[24:].mean()))
    assert found["all", ""].excess is None
    assert found["class", "ill"].release.value == pytest.approx(float(release[labels == 1].double().mean()))
    shown = by_subgroup(utility(release, labels), splits, 0.9)
    assert [(each.name, each.value) for each in shown] == [
        (name, found["site", name].release) for name in ("north", "south")
    ]


def test_scores_that_are_no_counts_are_compared_as_means(rng: torch.Generator) -> None:
    labels = torch.arange(40) % 2
    scores = torch.rand(2, 40, generator=rng, dtype=torch.float64)
    first, second = (replace(utility(labels > 0, labels), scores=each) for each in scores)
    everybody = costs(first, second, splits_of(labels), 0.95)[0]
    assert everybody.difference.value == pytest.approx(float((scores[0] - scores[1]).mean()))
    assert everybody.difference.low < everybody.difference.value < everybody.difference.high


def test_errors_are_no_shares(rng: torch.Generator) -> None:
    labels = torch.arange(40) % 2
    errors = 50 * torch.rand(40, generator=rng, dtype=torch.float64)
    of_numbers = replace(utility(labels > 0, labels), scores=errors, scored="mean_absolute_error")
    (first, _) = by_subgroup(of_numbers, splits_of(labels.double(), sex=["f"] * 20 + ["m"] * 20), 0.95)
    assert first.value.value == pytest.approx(float(errors[:20].mean()))
    assert first.value.low < first.value.value < first.value.high


@pytest.mark.parametrize("lost", [slice(None), slice(3)])
@pytest.mark.parametrize("whose", ["release", "control"])
def test_a_model_that_diverged_is_compared_with_none(whose: str, lost: slice) -> None:
    labels = torch.arange(40) % 2
    whole = utility(labels > 0, labels)
    scores = torch.rand(40, dtype=torch.float64)
    scores[lost] = torch.nan
    diverged, splits = replace(whole, scores=scores), splits_of(labels, site=["A"] * 20 + ["B"] * 20)
    pair = {"release": whole, "control": whole, whose: diverged}
    assert costs(**pair, splits=splits, confidence=0.95) == ()
    assert sum(each.records for each in by_subgroup(diverged, splits, 0.95)) in (0, 37)
    assert costs(diverged, diverged, splits, 0.95)[:1] == () or not scores.isnan().all()


def test_equal_differences_of_shares_leave_open_what_the_rule_of_three_does() -> None:
    labels = torch.arange(20) % 2
    half = replace(utility(labels > 0, labels), scores=torch.full((20,), 0.5))
    found = costs(half, replace(half, scores=torch.full((20,), 0.75)), splits_of(labels), 0.95)[0].difference
    assert found.value == -0.25
    assert found.high - found.low > 0.5
    assert -1.0 <= found.low <= found.high <= 1.0


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=120))
def test_of_small_subgroups_nothing_follows_from_the_rest(values: list[str]) -> None:
    before, after = Counter(values), Counter(pooled(values))
    kept = {name for name in after if name in before}
    assert all(before[name] == after[name] >= LEAST for name in kept)
    assert {name for name, count in before.items() if count < LEAST} <= before.keys() - kept
    if hidden := before.keys() - kept:
        (pool,) = after.keys() - kept
        assert len(hidden) > 1 or len(before) == 1
        assert after[pool] >= LEAST or not kept
        assert after[pool] == sum(before[name] for name in hidden)


def test_a_column_in_which_nothing_can_be_told_apart_is_not_shown() -> None:
    labels = torch.arange(40) % 2
    splits = splits_of(labels, rare=["B"] * 4 + ["A"] * 36, same=["A"] * 40)
    assert by_subgroup(utility(labels >= 0, labels), splits, 0.95) == ()


WARDS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("1234")), min_size=20, max_size=150)


@settings(deadline=None, max_examples=40)
@given(WARDS, st.booleans())
def test_nothing_of_few_records_follows_from_two_columns(rows: list[tuple[str, str]], nested: bool) -> None:
    """A ward beside its site, above all."""
    site = [where for where, _ in rows]
    ward = [where + number if nested else number for where, number in rows]
    labels = torch.arange(len(rows)) % 2
    whole = utility(labels >= 0, labels)
    splits = splits_of(labels, site=site, ward=ward)
    members = {"site": site, "ward": ward}
    sets = []
    found = by_subgroup(whole, splits, 0.95)
    for each in found:
        values = members[each.column]
        shown = {one.name for one in found if one.column == each.column}
        chosen = {at for at, value in enumerate(values) if (value if value in shown else POOLED) == each.name}
        assert len(chosen) == each.records >= LEAST
        sets.append(chosen)
    for one in sets:
        assert all(one == other or not one < other or len(other - one) >= LEAST for other in sets)


def test_nothing_is_told_of_classes_that_few_test_records_have() -> None:
    labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 12 + [3] * 4)
    splits = replace(splits_of(labels), classes=("a", "b", "c", "d"))
    task = Classification(classes=4, names=splits.classes)
    found = of_enough(task.utility([(torch.eye(4)[labels], labels)], confidence=0.95), splits)
    assert list(found.by_class) == ["a", "b"]
    assert {name: sum(row.values()) for name, row in found.confusion.items()} == {
        "a": 40,
        "b": 30,
        POOLED: 16,
    }
    assert [each.name for each in costs(found, found, splits, 0.95)] == ["", "a", "b"]
    several = torch.stack([labels == at for at in range(4)], 1).float()
    task = MultiLabel(labels=4, names=splits.classes)
    splits = replace(splits_of(several), classes=splits.classes, task=task)
    found = of_enough(task.utility([((several + 1) / 3, several)], confidence=0.95), splits)
    assert list(found.by_class) == ["a", "b"]


def test_costs_and_subgroups_hold_for_new_patients_where_it_is_known_whose_records_they_are(
    rng: torch.Generator,
) -> None:
    """Copies of each record make nothing surer."""
    labels = torch.arange(60) % 2
    control, release = torch.rand(2, 60, generator=rng) < torch.tensor([[0.9], [0.7]])
    sex = ["f" if each else "m" for each in (torch.rand(60, generator=rng) < 0.5).tolist()]

    def found(times: int, *, known: bool) -> list[float]:
        """The widths of all intervals."""
        many = [each.repeat_interleave(times) for each in (release, control, labels)]
        whose = torch.arange(60).repeat_interleave(times) if known else None
        splits = replace(
            splits_of(many[2], sex=[value for value in sex for _ in range(times)]), test_group_ids=whose
        )
        paid = costs(utility(many[0], many[2]), utility(many[1], many[2]), splits, 0.95)
        groups = by_subgroup(utility(many[0], many[2]), splits, 0.95)
        every = [i for c in paid for i in (c.release, c.control, c.difference, c.excess) if i is not None]
        return [each.high - each.low for each in (*every, *(group.value for group in groups))]

    one, together, apart = found(1, known=True), found(10, known=True), found(10, known=False)
    assert one == found(1, known=False)
    for alone, known, unknown in zip(one, together, apart, strict=True):
        assert known > 0.9 * alone
        assert unknown < 0.5 * alone


def test_released_minus_control_covers_among_patients() -> None:
    rng = torch.Generator().manual_seed(5)
    covered = alone = 0
    for _ in range(300):
        own, noise = torch.randn(60, 1, generator=rng), torch.randn(2, 60, 10, generator=rng)
        easy = (0.6**0.5 * own + 0.4**0.5 * noise).reshape(2, -1)
        right = easy[0] < 0.5244, easy[1] < 0.8416  # seven and eight of ten
        labels = torch.arange(600) % 2
        first, second = (utility(each, labels) for each in right)
        for whose in (torch.arange(60).repeat_interleave(10), None):
            splits = replace(splits_of(labels), test_group_ids=whose)
            found = costs(first, second, splits, 0.985)[0].difference
            covered += found.low <= -0.1 <= found.high and whose is not None
            alone += found.low <= -0.1 <= found.high and whose is None
    assert covered > 0.95 * 300  # for three differences together, by Bonferroni's inequality: each 99.5 %
    assert alone <= covered
