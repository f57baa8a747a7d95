"""Records are planted by a fair choice, where they are said to be, and leave no double behind."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from dptrain.config import Evidence
from dptrain.contracts import Records, seed_key
from dptrain.evaluation.games.reconstruction.game import ROOM, Reconstruction, fitted, plant
from dptrain.evidence.intervals import detection_limit
from dptrain.evidence.probes import public_count

pytestmark = pytest.mark.run


def planted(splits, seed=0, slots=4, candidates=5):
    return plant(
        splits, slots=slots, candidates=candidates, key=seed_key(torch.Generator().manual_seed(seed))
    )


@pytest.fixture
def splits(splits, rng):
    """With twice as many held-out records, none alike."""
    more = splits.holdout.take(torch.arange(40))
    more = Records(more.inputs * torch.rand(40, 1, 8, 8, generator=rng), more.labels)
    return replace(splits, holdout=splits.holdout.and_more(more))


def rows(records):
    return {tuple(image.flatten().tolist()) for image in records}


def test_the_chosen_candidate_is_exactly_at_its_position(splits):
    after, planting = planted(splits)
    for slot, position in enumerate(planting.positions):
        chosen = planting.truth[slot]
        assert torch.equal(after.train.inputs[position], planting.slots.inputs[slot, chosen])
        assert after.train.labels[position] == planting.slots.labels[slot, chosen]


def test_the_training_records_stay_where_they_were(splits):
    after, planting = planted(splits)
    assert planting.positions == (60, 61, 62, 63)
    assert torch.equal(after.train.inputs[:60], splits.train.inputs)
    assert torch.equal(after.train.labels[:60], splits.train.labels)
    assert len(after.train) == 64


def test_every_candidate_leaves_the_holdout_and_nothing_else_does(splits):
    after, planting = planted(splits)
    candidates = rows(planting.slots.inputs.flatten(0, 1))
    assert len(candidates) == 20
    assert rows(after.holdout.inputs) == rows(splits.holdout.inputs) - candidates
    assert candidates <= rows(splits.holdout.inputs)


def test_a_candidate_that_was_not_chosen_is_not_trained_on(splits):
    after, planting = planted(splits)
    trained = rows(after.train.inputs)
    for slot in range(4):
        for candidate in range(5):
            image = tuple(planting.slots.inputs[slot, candidate].flatten().tolist())
            assert (image in trained) == (candidate == planting.truth[slot])


def test_the_choice_is_fair_and_the_slots_independent(splits):
    truth = torch.stack([planted(splits, seed)[1].truth for seed in range(500)])
    assert chisquare(torch.bincount(truth.flatten(), minlength=5).numpy()).pvalue > 1e-3
    pairs = truth[:, 0] * 5 + truth[:, 1]
    assert chisquare(torch.bincount(pairs, minlength=25).numpy()).pvalue > 1e-3


def test_given_the_candidates_each_is_as_likely_the_planted_one(splits):
    """Whatever the candidates: the two that are shown, of five records, tell nothing of which it is."""
    few = replace(splits, holdout=splits.holdout.take(torch.arange(5)))
    names = {tuple(image.flatten().tolist()): place for place, image in enumerate(few.holdout.inputs)}
    counts = torch.zeros(5, 5, 5)  # by the two that are shown, and the one of them that was planted
    for seed in range(3000):
        _, planting = planted(few, seed, slots=1, candidates=2)
        shown = [names[tuple(image.flatten().tolist())] for image in planting.slots.inputs[0]]
        low, high = sorted(shown)
        counts[low, high, shown[int(planting.truth)]] += 1
    for low in range(5):
        for high in range(low + 1, 5):
            assert chisquare(counts[low, high, [low, high]].numpy()).pvalue > 1e-4
    pairs = counts.sum(2).flatten()
    assert chisquare(pairs[pairs > 0].numpy()).pvalue > 1e-4


def test_each_planted_record_is_a_patient_of_its_own(splits):
    for offset in (0, 2**63 - 100):  # a data class of one's own may number them as it likes
        grouped = replace(
            splits, group_ids=offset + torch.arange(60) // 3, holdout_group_ids=torch.arange(80)
        )
        after, planting = planted(grouped)
        assert after.group_ids is not None
        assert len(after.group_ids) == 64
        assert torch.equal(after.group_ids[:60], grouped.group_ids)
        for position in planting.positions:
            assert (after.group_ids == after.group_ids[position]).sum() == 1


def test_candidates_are_of_patients_of_their_own(splits):
    owners = torch.arange(80) // 2
    grouped = replace(splits, group_ids=torch.arange(60), holdout_group_ids=owners)
    after, planting = planted(grouped, slots=2, candidates=4)
    candidates = planting.slots.inputs.flatten(0, 1)
    places = [
        next(place for place in range(80) if torch.equal(splits.holdout.inputs[place], candidate))
        for candidate in candidates
    ]
    taken = owners[places].tolist()
    assert len(taken) == len(set(taken))
    assert after.holdout_group_ids is not None
    assert not set(after.holdout_group_ids.tolist()) & set(taken)
    moved = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    other, again = planted(
        replace(grouped, holdout=grouped.holdout.take(moved), holdout_group_ids=owners[moved]),
        slots=2,
        candidates=4,
    )
    assert torch.equal(again.slots.inputs, planting.slots.inputs)
    assert torch.equal(again.truth, planting.truth)
    assert rows(other.train.inputs) == rows(after.train.inputs)


def test_a_record_with_a_double_may_be_trained_on_but_is_not_shown(splits):
    """Held out twice, or in the training or test part as well: 20 of the 80."""
    inputs = splits.holdout.inputs.clone()
    inputs[:10] = splits.train.inputs[:10]
    inputs[10:15] = splits.test.inputs[:5]
    inputs[15:20] = inputs[20:25]
    doubled = replace(splits, holdout=Records(inputs, splits.holdout.labels))
    doubles, hidden = rows(inputs[:25]), 0
    for seed in range(40):
        after, planting = planted(doubled, seed)
        assert not rows(planting.slots.inputs.flatten(0, 1)) & doubles
        assert len(after.train) == 64
        hidden += 4 - len(planting.positions)
        for slot, position in enumerate(planting.positions):
            chosen = planting.slots.inputs[slot, planting.truth[slot]]
            assert torch.equal(after.train.inputs[position], chosen)
        assert not rows(after.train.inputs[60:]) & rows(after.holdout.inputs)  # no copy is a stranger
    assert 20 < hidden < 70  # of 160; 20 of the 75 that differ have a double


@given(
    slots=st.integers(1, 60),
    candidates=st.integers(2, 20),
    units=st.integers(0, 3000),
    more=st.integers(0, 9),
)
def test_numbers_come_down_to_what_there_is_room_for(slots, candidates, units, more):
    """No number grows, all fit, and another held-out unit changes them at few counts only."""
    found = fitted(slots, candidates, units=units, confidence=0.95)
    if ROOM * slots * candidates <= 0.8 * public_count(units) - ROOM:
        assert found == (slots, candidates)
    elif found is not None:
        assert ROOM * found[0] * found[1] <= units
        assert found[0] <= slots
        assert found[1] <= candidates
        assert found == (slots, candidates) or detection_limit(found[0], 0.95) > 1 / found[1]
    if public_count(units) == public_count(units + more):
        assert fitted(slots, candidates, units=units + more, confidence=0.95) == found


def test_slots_that_happen_to_be_short_are_left_out_unless_they_are_many(splits):
    counts = [len(planted(splits, seed, slots=17, candidates=3)[1].truth) for seed in range(20)]
    assert 9 <= min(counts) <= max(counts) <= 17
    alike = Records(splits.holdout.inputs[:1].expand(80, -1, -1, -1), splits.holdout.labels)
    grouped = replace(splits, holdout=alike, group_ids=torch.arange(60), holdout_group_ids=torch.arange(80))
    after, planting = planted(grouped)
    assert len(planting.truth) == 0
    assert (len(after.train), len(after.holdout)) == (64, 76), "what is planted is trained on all the same"
    game = Reconstruction(evidence=Evidence(slots=4, candidates=5))
    (problem,) = game.problems(after, planting)
    assert problem.startswith("by chance 0 of 4 slots hold enough held-out records (one of each group)")
