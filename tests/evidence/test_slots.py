"""Records are planted by a fair coin, where they are said to be, and leave no double behind."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from dptrain.contracts import ConfigError
from dptrain.evidence.slots import plant


def planted(splits, seed=0, slots=4, candidates=5):
    return plant(
        splits,
        slots=slots,
        candidates=candidates,
        rng=torch.Generator().manual_seed(seed),
        coins=torch.Generator().manual_seed(1000 + seed),
    )


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


def test_the_coin_is_fair_and_the_slots_independent(splits):
    truth = torch.stack([planted(splits, seed)[1].truth for seed in range(500)])
    assert chisquare(torch.bincount(truth.flatten(), minlength=5).numpy()).pvalue > 1e-3
    pairs = truth[:, 0] * 5 + truth[:, 1]
    assert chisquare(torch.bincount(pairs, minlength=25).numpy()).pvalue > 1e-3


def test_the_coin_does_not_depend_on_the_choice_of_candidates(splits):
    def truth(seed):
        return plant(
            splits,
            slots=4,
            candidates=5,
            rng=torch.Generator().manual_seed(seed),
            coins=torch.Generator().manual_seed(3),
        )[1].truth

    assert torch.equal(truth(1), truth(2))


def test_each_planted_record_is_a_patient_of_its_own(splits):
    after, planting = planted(
        replace(splits, group_ids=torch.arange(60) // 3, holdout_group_ids=torch.arange(40))
    )
    assert after.group_ids is not None
    assert len(after.group_ids) == 64
    for position in planting.positions:
        assert (after.group_ids == after.group_ids[position]).sum() == 1


def test_candidates_are_of_patients_of_their_own(splits):
    owners = torch.arange(40) // 2
    after, planting = planted(
        replace(splits, group_ids=torch.arange(60), holdout_group_ids=owners), slots=2, candidates=4
    )
    candidates = planting.slots.inputs.flatten(0, 1)
    places = [
        next(place for place in range(40) if torch.equal(splits.holdout.inputs[place], candidate))
        for candidate in candidates
    ]
    taken = owners[places].tolist()
    assert len(taken) == len(set(taken))
    assert after.holdout_group_ids is not None
    assert not set(after.holdout_group_ids.tolist()) & set(taken)


def test_too_many_candidates_are_refused_with_the_cure(splits):
    with pytest.raises(ConfigError, match=r"evidence\.slots=7 .* needs 21 held-out records.* choose fewer"):
        planted(splits, slots=7, candidates=3)
