"""Teachers: one changed record changes one vote, to the last bit; a broken partition is caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dptrain.contracts import Records
from dptrain.privacy.votes import ONE_VOTE
from dptrain.training.teachers import counts_of, parts_of, votes

TEACHERS, CLASSES = 12, 3
KEY = bytes(range(32))
Partition = Callable[[Records, "Tensor | None"], Tensor]


def records(count: int = 150, seed: int = 0) -> Records:
    """Three clouds that overlap, so that votes are close and a small change turns them."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    inputs = torch.randn(count, 8, generator=rng) + torch.eye(CLASSES, 8)[labels]
    return Records(inputs, labels)


ASKED = records(40, seed=1).inputs


def by_hash(train: Records, groups: Tensor | None) -> Tensor:
    return parts_of(train, groups, TEACHERS, KEY)


def by_position(train: Records, groups: Tensor | None) -> Tensor:  # noqa: ARG001
    return torch.arange(len(train)) % TEACHERS


def said(train: Records, partition: Partition, groups: Tensor | None = None) -> Tensor:
    part = partition(train, groups)
    return votes(train, part, ASKED, teachers=TEACHERS, classes=CLASSES, ridge=0.03)


def without(train: Records, gone: Tensor) -> Records:
    return train.take((~gone).nonzero().squeeze(1))


def most_changed(partition: Partition) -> tuple[int, float]:
    """By leaving out one record: how many teachers say something else, how far counts of an input move."""
    train, teachers, moved = records(), 0, 0.0
    before = said(train, partition)
    for gone in range(0, len(train), 5):
        after = said(without(train, torch.arange(len(train)) == gone), partition)
        teachers = max(teachers, int((before != after).any(1).sum()))
        change = counts_of(after, CLASSES) - counts_of(before, CLASSES)
        moved = max(moved, float(change.norm(dim=1).max()))
    return teachers, moved


def test_one_record_less_changes_one_teacher_and_one_vote_on_each_input() -> None:
    teachers, moved = most_changed(by_hash)
    assert teachers == 1
    assert moved == pytest.approx(ONE_VOTE)


def test_a_partition_by_position_is_caught() -> None:
    teachers, moved = most_changed(by_position)
    assert teachers > 1
    assert moved > ONE_VOTE + 0.1


def test_features_that_depend_on_all_records_are_caught() -> None:
    train = records()
    gone = torch.arange(len(train)) == 7
    scaled = [
        Records(each.inputs / each.inputs.std(0) ** 8, each.labels) for each in (train, without(train, gone))
    ]
    part = by_hash(train, None)
    parts = part, part[~gone]
    before, after = (
        votes(each, own, ASKED, teachers=TEACHERS, classes=CLASSES, ridge=0.03)
        for each, own in zip(scaled, parts, strict=True)
    )
    assert int((before != after).any(1).sum()) > 1


def test_one_record_in_place_of_another_changes_two_teachers_at_most() -> None:
    train, other = records(), records(30, seed=2)
    before, most = said(train, by_hash), 0
    for place in range(30):
        inputs, labels = train.inputs.clone(), train.labels.clone()
        inputs[place], labels[place] = other.inputs[place], other.labels[place]
        most = max(most, int((before != said(Records(inputs, labels), by_hash)).any(1).sum()))
    assert most == 2


def test_a_group_is_in_one_part() -> None:
    train = records()
    groups = torch.arange(len(train)) // 5
    part = by_hash(train, groups)
    assert all(len(part[groups == each].unique()) == 1 for each in groups.unique())
    before = said(train, by_hash, groups)
    for gone in range(0, 30, 4):
        left = groups != gone
        after = votes(
            without(train, ~left),
            by_hash(without(train, ~left), groups[left]),
            ASKED,
            teachers=TEACHERS,
            classes=CLASSES,
            ridge=0.03,
        )
        assert int((before != after).any(1).sum()) <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_a_record_that_is_no_number_spoils_one_teacher_alone(bad: float) -> None:
    train = records()
    inputs = train.inputs.clone()
    inputs[3] = bad
    part = by_hash(train, None)
    before, after = (
        votes(Records(each, train.labels), part, ASKED, teachers=TEACHERS, classes=CLASSES, ridge=0.03)
        for each in (train.inputs, inputs)
    )
    assert set((before != after).any(1).nonzero().flatten().tolist()) <= {int(part[3])}
    assert ((after >= 0) & (after < CLASSES)).all()


def test_a_teacher_without_records_votes_and_all_are_counted() -> None:
    few = records(5)
    found = said(few, by_hash)
    assert found.shape == (TEACHERS, len(ASKED))
    assert torch.equal(counts_of(found, CLASSES).sum(1), torch.full((len(ASKED),), 12.0, dtype=torch.float64))


def test_products_of_records_and_of_features_give_the_same_teacher() -> None:
    train = records(300)
    wide = Records(torch.cat([train.inputs, torch.zeros(300, 400)], 1), train.labels)
    asked = torch.cat([ASKED, torch.zeros(40, 400)], 1)
    one = torch.zeros(300, dtype=torch.int64)
    narrow = votes(train, one, ASKED, teachers=1, classes=CLASSES, ridge=0.03)
    assert torch.equal(narrow, votes(wide, one, asked, teachers=1, classes=CLASSES, ridge=0.03))
