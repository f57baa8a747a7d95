"""Probes are drawn fairly, are where they are said to be, and have no double that could stand in for them."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, chisquare

from dptrain.contracts import ConfigError, Records
from dptrain.evidence.probes import draw_probes, known_members
from dptrain.evidence.slots import plant


def drawn(splits, seed=0, probes=30, **options):
    return draw_probes(
        splits,
        probes=probes,
        rng=torch.Generator().manual_seed(seed),
        coins=torch.Generator().manual_seed(1000 + seed),
        **options,
    )


def rows(records):
    return [tuple(image.flatten().tolist()) for image in records.inputs]


def test_members_are_trained_on_where_it_says_so_and_nobody_else_is(splits):
    after, drawing = drawn(splits, mislabelled=0.3)
    inside = drawing.probes.take(drawing.members.nonzero().flatten())
    trained = after.train.take(torch.tensor(drawing.positions))
    assert torch.equal(trained.inputs, inside.inputs)
    assert torch.equal(trained.labels, inside.labels)
    outside = set(rows(drawing.probes.take((~drawing.members).nonzero().flatten())))
    assert outside.isdisjoint(rows(after.train))
    assert set(rows(drawing.probes)).isdisjoint(rows(after.holdout))


def test_everything_else_stays_in_order_and_nothing_is_lost(splits):
    after, drawing = drawn(splits)
    chosen = set(rows(drawing.probes))
    assert len(chosen) == 30
    left = [row for row in rows(splits.train) if row not in chosen]
    assert rows(after.train)[: len(left)] == left
    assert rows(after.holdout) == [row for row in rows(splits.holdout) if row not in chosen]
    assert len(after.train) == len(left) + int(drawing.members.sum())


def test_a_person_can_find_each_record_again(splits):
    _, drawing = drawn(splits, mislabelled=0.5)
    assert len(set(drawing.origin)) == 30
    for number, place in enumerate(drawing.origin):
        split, index = place.split()
        source = getattr(splits, split)
        assert torch.equal(drawing.probes.inputs[number], source.inputs[int(index)])
        assert (drawing.probes.labels[number] != source.labels[int(index)]) == drawing.mislabelled[number]


def test_half_are_held_out_records_as_long_as_half_of_those_remain(splits):
    def origins(probes):
        _, drawing = drawn(splits, probes=probes)
        return sum(place.startswith("holdout") for place in drawing.origin), len(drawing.origin)

    assert origins(30) == (15, 30)
    assert origins(48) == (20, 48)  # of 40 held out


def test_a_record_with_a_double_is_never_a_probe(splits):
    """Doubles of one in another, within one, and whatever their labels say."""
    train, holdout, test = (part.inputs.clone() for part in (splits.train, splits.holdout, splits.test))
    train[1] = train[0]
    train[3] = holdout[5]
    train[7] = test[2]
    holdout[9] = test[4]
    doubles = {"train 0", "train 1", "train 3", "train 7", "holdout 5", "holdout 9"}
    doubled = replace(
        splits,
        train=Records(train, splits.train.labels),
        holdout=Records(holdout, splits.holdout.labels),
        test=Records(test, (splits.test.labels + 1) % 3),
    )
    ever = {place for seed in range(60) for place in drawn(doubled, seed)[1].origin}
    assert ever.isdisjoint(doubles)
    assert len(ever) == 60 + 40 - len(doubles)  # and everybody else may be


def test_the_coin_is_fair_whatever_the_record(splits):
    members, held_out = [], []
    for seed in range(300):
        _, drawing = drawn(splits, seed)
        members.append(drawing.members)
        held_out.append(torch.tensor([place.startswith("holdout") for place in drawing.origin]))
    coins, origin = torch.cat(members), torch.cat(held_out)
    for group in (coins[origin], coins[~origin]):
        assert binomtest(int(group.sum()), len(group)).pvalue > 1e-3
    pairs = torch.stack(members)[:, :2].long() @ torch.tensor([2, 1])
    assert chisquare(torch.bincount(pairs, minlength=4).numpy()).pvalue > 1e-3


def test_the_coin_and_the_choice_know_nothing_of_each_other(splits):
    def draw(rng, coins):
        return draw_probes(
            splits,
            probes=30,
            mislabelled=0.2,
            rng=torch.Generator().manual_seed(rng),
            coins=torch.Generator().manual_seed(coins),
        )[1]

    one, other_choice, other_coins = draw(1, 1), draw(2, 1), draw(1, 2)
    assert torch.equal(one.members, other_choice.members)
    assert one.origin != other_choice.origin
    assert not torch.equal(one.members, other_coins.members)
    assert one.origin == other_coins.origin
    assert torch.equal(one.probes.labels, other_coins.probes.labels)


def test_wrong_labels_are_as_many_as_asked_for_and_any_other_class(splits):
    away = torch.zeros(3, dtype=torch.int64)
    for seed in range(100):
        _, drawing = drawn(splits, seed, mislabelled=0.5)
        assert int(drawing.mislabelled.sum()) == 15
        for number in drawing.mislabelled.nonzero().flatten().tolist():
            split, index = drawing.origin[number].split()
            right = getattr(splits, split).labels[int(index)]
            away[(drawing.probes.labels[number] - right) % 3] += 1
    assert away[0] == 0
    assert chisquare(away[1:].numpy()).pvalue > 1e-3


def test_patients_are_left_whole_and_each_probe_is_one_of_its_own(splits):
    grouped = replace(splits, group_ids=torch.arange(60) // 3, holdout_group_ids=torch.arange(40))
    after, drawing = drawn(grouped, probes=40)
    assert len(drawing.origin) == 20  # half of those held out
    assert all(place.startswith("holdout") for place in drawing.origin)
    assert torch.equal(after.train.inputs[:60], splits.train.inputs)
    assert after.group_ids is not None
    assert torch.equal(after.group_ids[:60], grouped.group_ids)
    assert len(after.group_ids) == len(after.train)
    for position in drawing.positions:
        assert (after.group_ids == after.group_ids[position]).sum() == 1


def test_no_patient_becomes_two_units_nor_stays_half_held_out(splits):
    """A patient with several held-out records, each planted as a unit of its own, would be protected less."""
    owners = torch.arange(200) // 4
    many = replace(
        splits,
        holdout=splits.holdout.take(torch.arange(200) % 40),
        group_ids=torch.arange(60),
        holdout_group_ids=owners,
    )
    many.holdout.inputs.add_(torch.rand(many.holdout.inputs.shape) * 1e-3)  # no two alike
    after, drawing = drawn(many, probes=40)
    taken = [owners[int(place.split()[1])].item() for place in drawing.origin]
    assert len(taken) == len(set(taken)) == 25
    assert after.holdout_group_ids is not None
    assert not set(after.holdout_group_ids.tolist()) & set(taken)
    assert len(after.holdout) == len(after.holdout_group_ids) == 100


def test_held_out_records_of_unknown_patients_are_not_planted(splits):
    with pytest.raises(ConfigError, match=r"Splits\.holdout_group_ids"):
        drawn(replace(splits, group_ids=torch.arange(60)), probes=40)


def few(splits, train, holdout):
    return replace(
        splits,
        train=splits.train.take(torch.arange(train)),
        holdout=splits.holdout.take(torch.arange(holdout)),
    )


def test_the_training_set_is_not_taken_apart_and_the_cure_works(splits):
    with pytest.raises(ConfigError, match=r"evidence\.probes=60 .* 40 of the 60 .* choose at most 50"):
        drawn(splits, probes=60)
    assert len(drawn(splits, probes=50)[1].origin) == 50
    with pytest.raises(ConfigError, match=r"24 of the 24 .* choose at most 24"):
        drawn(few(splits, 24, 40), probes=60)
    assert len(drawn(few(splits, 24, 40), probes=24)[1].origin) == 24


@pytest.mark.parametrize(("probes", "cure"), [(19, "choose more"), (30, "hold out more records")])
def test_too_few_probes_are_refused(splits, probes, cure):
    grouped = replace(few(splits, 60, 39), group_ids=torch.arange(60), holdout_group_ids=torch.arange(39))
    with pytest.raises(ConfigError, match=rf"evidence\.probes={probes}: 19 held-out .*; {cure}"):
        drawn(grouped, probes=probes)


def test_held_out_records_are_spared_for_others(splits):
    after, drawing = drawn(splits, spare=36)
    assert sum(place.startswith("holdout") for place in drawing.origin) == 4
    assert len(drawing.origin) == 30
    assert len(after.holdout) == 36
    assert len(drawn(splits, spare=99)[0].holdout) == 40


def test_who_knows_all_but_the_probes_knows_the_rest_and_the_slots(splits):
    grouped = replace(splits, group_ids=torch.arange(60) // 3, holdout_group_ids=torch.arange(40))
    after, drawing = drawn(grouped)
    planted, planting = plant(
        after,
        slots=2,
        candidates=3,
        rng=torch.Generator().manual_seed(0),
        coins=torch.Generator().manual_seed(0),
    )
    known = drawing.known(planted)
    assert set(rows(known.train)).isdisjoint(rows(drawing.probes))
    slots = planted.train.take(torch.tensor(planting.positions))
    assert rows(known.train) == [*rows(splits.train), *rows(slots)]
    assert known.group_ids is not None
    assert torch.equal(known.group_ids[:60], grouped.group_ids)
    assert len(known.group_ids) == len(known.train) == 62


def test_of_a_model_from_elsewhere_members_are_what_it_was_trained_on(splits):
    drawing, left = known_members(splits, probes=30, rng=torch.Generator().manual_seed(0))
    assert int(drawing.members.sum()) == 15
    inside = drawing.probes.take(drawing.members.nonzero().flatten())
    trained = splits.train.take(torch.tensor(drawing.positions))
    assert torch.equal(inside.inputs, trained.inputs)
    assert torch.equal(inside.labels, trained.labels)
    assert [place.startswith("train") for place in drawing.origin] == drawing.members.tolist()
    outside = rows(drawing.probes.take((~drawing.members).nonzero().flatten()))
    assert rows(left) == [row for row in rows(splits.holdout) if row not in outside]
    assert len(left) == 25
    assert not drawing.mislabelled.any()
    members = torch.stack(
        [
            known_members(splits, probes=30, rng=torch.Generator().manual_seed(n))[0].members
            for n in range(200)
        ]
    )
    assert 0.4 < float(members[:, 0].double().mean()) < 0.6  # the order gives nothing away


def test_of_a_model_from_elsewhere_a_double_is_no_probe_either(splits):
    train = splits.train.inputs.clone()
    train[:20] = splits.holdout.inputs[:20]
    doubled = replace(splits, train=Records(train, splits.train.labels))
    drawing, _ = known_members(doubled, probes=200, rng=torch.Generator().manual_seed(0))
    assert len(drawing.origin) == 40
    assert all(int(place.split()[1]) >= 20 for place in drawing.origin)
    with pytest.raises(ConfigError, match=r"evidence\.probes=18: 9 held-out and 9 training .*; choose more"):
        known_members(splits, probes=18, rng=torch.Generator())
