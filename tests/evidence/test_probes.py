"""Probes are drawn fairly, are where they are said to be, and have no double that could stand in for them."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, chi2_contingency, chisquare

from dptrain.config import Evidence
from dptrain.contracts import PROBES, ConfigError, Records, Streams, seed_key
from dptrain.evaluation.assignment import Assignments, split_known
from dptrain.evaluation.games.probed import OnProbes
from dptrain.evaluation.games.reconstruction.game import plant
from dptrain.evidence.probes import chances, draw_probes, known_members, public_count

pytestmark = pytest.mark.run

PARTS = ("train", "holdout")


def key(seed):
    return seed_key(torch.Generator().manual_seed(seed))


@pytest.fixture
def splits(splits, rng):
    """With four times as many records to train on, and as many held out, none alike."""

    def more(records, times):
        chosen = records.take(torch.arange(times * len(records)) % len(records))
        return Records(chosen.inputs * torch.rand(len(chosen), 1, 1, 1, generator=rng), chosen.labels)

    return replace(splits, train=more(splits.train, 4), holdout=more(splits.holdout, 4))


def drawn(splits, seed=0, probes=60, **options):
    return draw_probes(
        splits,
        probes=probes,
        key=key(seed),
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
    assert 20 <= len(chosen) <= 100
    left = [row for row in rows(splits.train) if row not in chosen]
    assert rows(after.train)[: len(left)] == left
    assert rows(after.holdout) == [row for row in rows(splits.holdout) if row not in chosen]
    assert len(after.train) == len(left) + int(drawing.members.sum())


def test_a_person_can_find_each_record_again(splits):
    _, drawing = drawn(splits, mislabelled=0.5)
    assert len(set(drawing.origin)) == len(drawing.members)
    for number, place in enumerate(drawing.origin):
        split, index = place.split()
        source = getattr(splits, split)
        assert torch.equal(drawing.probes.inputs[number], source.inputs[int(index)])
        assert (drawing.probes.labels[number] != source.labels[int(index)]) == drawing.mislabelled[number]


def test_about_half_are_held_out_records_as_long_as_half_of_those_remain(splits):
    def origins(probes):
        places = [place for seed in range(40) for place in drawn(splits, seed, probes)[1].origin]
        return sum(place.startswith("holdout") for place in places) / 40, len(places) / 40

    held_out, together = origins(60)  # of 160 and 240, which 192 and 256 stand for
    assert held_out == pytest.approx(30 * 160 / 192, abs=3)
    assert together == pytest.approx(30 * 160 / 192 + 30 * 240 / 256, abs=4)
    held_out, together = origins(220)
    assert held_out == pytest.approx(80, abs=3)
    assert together == pytest.approx(80 + 124 * 240 / 256, abs=5)


def test_a_record_with_a_double_follows_its_coin_and_is_not_scored(splits):
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
    ever, times = set(), []
    for seed in range(60):
        after, drawing = drawn(doubled, seed, 110)
        ever |= set(drawing.origin)
        times.append(rows(after.train).count(tuple(train[0].flatten().tolist())))
        trained = after.train.take(torch.tensor(drawing.positions))
        assert rows(trained) == rows(drawing.probes.take(drawing.members.nonzero().flatten()))
    assert ever.isdisjoint(doubles)
    assert len(ever) > 0.99 * (240 + 160 - len(doubles))  # and everybody else may be
    assert set(times) == {0, 2}  # both copies, or neither
    assert 2 <= times.count(0) <= 14  # a chance of .21 to be drawn, half of those stay out


def test_the_coin_is_fair_whatever_the_record(splits):
    members, held_out, pairs = [], [], []
    for seed in range(300):
        _, drawing = drawn(splits, seed)
        members.append(drawing.members)
        held_out.append(torch.tensor([place.startswith("holdout") for place in drawing.origin]))
        pairs.append(drawing.members[:2].long() @ torch.tensor([2, 1]))
    coins, origin = torch.cat(members), torch.cat(held_out)
    for group in (coins[origin], coins[~origin]):
        assert binomtest(int(group.sum()), len(group)).pvalue > 1e-3
    assert chisquare(torch.bincount(torch.stack(pairs), minlength=4).numpy()).pvalue > 1e-3


def test_the_coin_is_independent_of_the_choice_the_label_and_the_place_in_line(splits):
    tables = torch.zeros(3, 2, 2)
    for seed in range(200):
        _, drawing = drawn(splits, seed, mislabelled=0.5)
        half = torch.arange(len(drawing.members)) < len(drawing.members) // 2
        early = torch.tensor([int(place.split()[1]) < 80 for place in drawing.origin])
        for number, other in enumerate((drawing.mislabelled, half, early)):
            for one in (False, True):
                for two in (False, True):
                    tables[number, int(one), int(two)] += int(
                        ((drawing.members == one) & (other == two)).sum()
                    )
    for table in tables:
        assert chi2_contingency(table.numpy()).pvalue > 1e-3


def test_wrong_labels_are_about_as_many_as_asked_for_and_any_other_class(splits):
    away = torch.zeros(3, dtype=torch.int64)
    wrong = []
    for seed in range(100):
        _, drawing = drawn(splits, seed, mislabelled=0.5)
        wrong.append(drawing.mislabelled)
        for number in drawing.mislabelled.nonzero().flatten().tolist():
            split, index = drawing.origin[number].split()
            right = getattr(splits, split).labels[int(index)]
            away[(drawing.probes.labels[number] - right) % 3] += 1
    assert binomtest(int(torch.cat(wrong).sum()), len(torch.cat(wrong))).pvalue > 1e-3
    assert away[0] == 0
    assert chisquare(away[1:].numpy()).pvalue > 1e-3


def test_patients_are_left_whole_and_each_probe_is_one_of_its_own(splits):
    grouped = replace(splits, group_ids=torch.arange(240) // 3, holdout_group_ids=1000 + torch.arange(160))
    after, drawing = drawn(grouped, probes=200)
    assert 50 < len(drawing.origin) < 110  # half of those held out
    assert all(place.startswith("holdout") for place in drawing.origin)
    assert torch.equal(after.train.inputs[:240], splits.train.inputs)
    assert after.group_ids is not None
    assert torch.equal(after.group_ids[:240], grouped.group_ids)
    assert len(after.group_ids) == len(after.train)
    for position in drawing.positions:
        assert (after.group_ids == after.group_ids[position]).sum() == 1


def test_no_patient_becomes_two_units_nor_stays_half_held_out(splits):
    """A patient with several held-out records, each planted as a unit of its own, would be protected less."""
    owners = torch.arange(160) // 2
    many = replace(splits, group_ids=torch.arange(240), holdout_group_ids=owners)
    after, drawing = drawn(many, probes=60)
    taken = [owners[int(place.split()[1])].item() for place in drawing.origin]
    assert len(taken) == len(set(taken)) > 20
    assert after.holdout_group_ids is not None
    assert not set(after.holdout_group_ids.tolist()) & set(taken)
    assert len(after.holdout) == len(after.holdout_group_ids) == 160 - 2 * len(taken)
    moved = torch.randperm(160, generator=torch.Generator().manual_seed(1))
    other = replace(many, holdout=many.holdout.take(moved), holdout_group_ids=owners[moved])
    assert rows(drawn(other, probes=60)[1].probes) == rows(drawing.probes)


def test_held_out_records_of_unknown_patients_are_not_planted(splits):
    with pytest.raises(ConfigError, match=r"Splits\.holdout_group_ids"):
        drawn(replace(splits, group_ids=torch.arange(240)), probes=40)


def few(splits, train, holdout):
    return replace(
        splits,
        train=splits.train.take(torch.arange(train)),
        holdout=splits.holdout.take(torch.arange(holdout)),
    )


def test_the_training_set_is_not_taken_apart_and_the_cure_works(splits):
    with pytest.raises(ConfigError, match=r"evidence\.probes=400 .* about 304 of about 256 .* at most 224"):
        drawn(splits, probes=400)
    assert chances(splits, 224, held_out=160).train == pytest.approx(0.5)
    assert len(drawn(splits, probes=224)[1].origin) > 150


def test_groups_share_the_held_out_records_between_probes_and_slots(splits):
    """All probes of groups come from there: they are given half of it, where others would take it all."""
    grouped = replace(splits, group_ids=torch.arange(240), holdout_group_ids=torch.arange(160))
    shared = chances(grouped, 400, held_out=160, spare=480)
    assert (shared.holdout, shared.expected) == (0.5, 96)
    assert chances(grouped, 400, held_out=20, spare=480).holdout == 0.0  # too few for either
    assert chances(splits, 60, held_out=160, spare=480).holdout == 0.0


def test_held_out_records_are_spared_for_others(splits):
    """Of 160, which 192 stand for: as many are left as there may be at least of those."""
    left = [len(drawn(splits, seed, spare=140)[0].holdout) for seed in range(40)]
    assert 160 * 140 / (0.8 * 192) - 4 < sum(left) / 40 < 160
    assert len(drawn(splits, spare=170)[0].holdout) == 160
    assert len(drawn(splits, spare=170)[1].origin) > 30


def test_chances_depend_on_declared_units_or_on_two_digits_of_how_many_there_are(splits):
    declared = chances(splits, 60, held_out=160, units=300)
    assert declared == chances(few(splits, 100, 160), 60, held_out=160, units=300)
    assert declared.train == pytest.approx(30 / 300)
    assert chances(splits, 60, held_out=160) == chances(few(splits, 239, 159), 60, held_out=159)
    changes = sum(public_count(count) != public_count(count + 1) for count in range(64, 1024))
    assert changes == 8  # twice while it doubles
    assert all(0.8 < count / public_count(count) < 1.25 for count in range(6, 5000))


def test_who_knows_all_but_what_chance_assigned_knows_the_rest(splits):
    grouped = replace(splits, group_ids=torch.arange(240) // 3, holdout_group_ids=torch.arange(160))
    after, drawing = drawn(grouped)
    planted, planting = plant(after, slots=2, candidates=3, key=key(0))
    known = Assignments(drawn={PROBES: drawing, "slots": planting}).known(planted)
    assert rows(known.train) == rows(splits.train)
    assert known.group_ids is not None
    assert torch.equal(known.group_ids, grouped.group_ids)


def test_of_a_model_from_elsewhere_members_are_what_it_was_trained_on(splits):
    after, drawing = known_members(splits, probes=30, rng=torch.Generator().manual_seed(0))
    left = after.holdout
    assert int(drawing.members.sum()) == 15
    inside = drawing.probes.take(drawing.members.nonzero().flatten())
    trained = splits.train.take(torch.tensor(drawing.positions))
    assert torch.equal(inside.inputs, trained.inputs)
    assert torch.equal(inside.labels, trained.labels)
    assert [place.startswith("train") for place in drawing.origin] == drawing.members.tolist()
    outside = rows(drawing.probes.take((~drawing.members).nonzero().flatten()))
    assert rows(left) == [row for row in rows(splits.holdout) if row not in outside]
    assert len(left) == 145
    assert not drawing.mislabelled.any()
    members = torch.stack(
        [
            known_members(splits, probes=30, rng=torch.Generator().manual_seed(n))[1].members
            for n in range(200)
        ]
    )
    assert 0.4 < float(members[:, 0].double().mean()) < 0.6  # the order gives nothing away


def test_of_a_model_from_elsewhere_a_double_is_no_probe_either(splits):
    train = splits.train.inputs.clone()
    train[:20] = splits.holdout.inputs[:20]
    doubled = replace(splits, train=Records(train, splits.train.labels))
    _, drawing = known_members(doubled, probes=400, rng=torch.Generator().manual_seed(0))
    assert len(drawing.origin) == 160
    assert all(int(place.split()[1]) >= 20 for place in drawing.origin)


def test_of_a_model_from_elsewhere_a_patient_is_one_probe(splits):
    """Records of a patient depend on each other: AUC called leakage in a third of the runs without any."""
    patients, owners = torch.arange(240) // 10, 1000 + torch.arange(160) // 8
    grouped = replace(splits, group_ids=patients, holdout_group_ids=owners)
    drawn_of = set()
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        after, drawing = known_members(grouped, probes=400, rng=rng)
        places = {part: [int(p.split()[1]) for p in drawing.origin if p.startswith(part)] for part in PARTS}
        inside, outside = patients[places["train"]].tolist(), owners[places["holdout"]].tolist()
        assert len(inside) == len(outside) == 10  # half of the twenty held-out patients
        assert len(set(inside)) == len(set(outside)) == 10
        assert sorted(places["train"]) == sorted(drawing.positions)
        assert after.holdout_group_ids is not None
        assert not set(after.holdout_group_ids.tolist()) & set(outside)
        assert len(after.holdout) == len(after.holdout_group_ids) == 80
        drawn_of |= {place % 10 for place in places["train"]}
    assert drawn_of == set(range(10))  # any of a patient's records may be the one
    with pytest.raises(ConfigError, match=r"Splits\.holdout_group_ids"):
        known_members(
            replace(grouped, holdout_group_ids=None), probes=400, rng=torch.Generator().manual_seed(0)
        )


def test_whose_held_out_records_are_must_be_known_where_training_records_are_grouped(splits):
    grouped = replace(splits, group_ids=torch.arange(240) // 10)
    after, assignments = split_known(grouped, Evidence(), Streams(seed=0))
    assert assignments.probes is None
    assert after is grouped
    (problem,) = OnProbes.problems(object.__new__(OnProbes), after, None)
    assert "nobody says whose the held-out records are" in problem
