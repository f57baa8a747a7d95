"""A statement written as JSON and read again is the same; what cannot be read is refused by name."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import fields, replace

import pytest

from dptrain.contracts import (
    Assignment,
    Budget,
    Constants,
    DataError,
    Hashes,
    Randomness,
    SelectionTerms,
    Sensitivity,
    Statement,
    SweepTotal,
)
from dptrain.privacy.banded import BandedPlan
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee
from dptrain.privacy.moments import MomentsPlan
from dptrain.privacy.votes import VotesPlan
from dptrain.privacy.written import from_json, part, plan_from_json, plan_to_json, to_json

BUDGET = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)
OLD = {
    "private": True, "void": False, "void_reason": None, "sentence": "s", "released": "weights",
    "unit": "record",
    "adjacency": "add_remove", "units": 500, "units_public": True, "epsilon": 3, "delta": 1e-5, "mu": 0.7,
    "tpr_at_fpr": {"0.001": 0.01, "0.01": 0.06}, "outside_guarantee": ["a"], "steps": 20,
    "randomness": {"secret": True, "cryptographic": False, "source": "torch"},
    "decided_by_coins": {"planted_records": 24, "probes": 40, "probes_trained_on": 19},
}  # fmt: skip


@pytest.fixture
def full(make_plan_of):
    """A statement that uses every part."""
    return replace(
        DPGuarantee(plan=make_plan_of(), budget=BUDGET, outside=("a", "b")).statement(),
        sensitivity=Sensitivity(most=1.0, records=4, audit="held", ratio=0.99),
        randomness=Randomness(secret=True, cryptographic=True, source="s", reach=9.0, assumptions=("x",)),
        assignment=Assignment(slots=3, candidates=8, change="by it"),
        constants=Constants(declared=("sample_rate",), mean=(0.5,), std=(0.2,), bounds=(0.0, 1.0)),
        public_data=("PathMNIST",),
        selection=SelectionTerms(
            search="a", epsilon=5.0, delta=1e-5, tpr_at_fpr={"0.01": 0.4}, epsilon_alone=3.0, unit="record",
            distribution="poisson", mean_runs=10.0, shape=None, runs_99=20, candidates=3, score="s",
            theorem="t", accountant="a", sentence="s",
        ),
        sweep=SweepTotal(runs=2, epsilon_together=4.0, not_private=0, sentence="s", plans=({"steps": 3},)),
        hashes=Hashes(weights="a", modules={"my_nets": "b"}),
    )  # fmt: skip


def test_everything_comes_back(full):
    assert from_json(json.loads(json.dumps(to_json(full), allow_nan=False))) == full
    nothing = NoGuarantee(budget=BUDGET).statement()
    assert from_json(json.loads(json.dumps(to_json(nothing), allow_nan=False))).epsilon == math.inf


def test_an_older_report_is_read():
    read = from_json(OLD)
    assert (read.epsilon, read.steps, read.void) == (3.0, 20, False)
    assert read.assignment == Assignment(slots=24, probes=40, probes_trained_on=19)
    assert read.randomness is not None
    assert read.randomness.assumptions == ()
    assert read.hashes is None
    assert from_json({**OLD, "void": True, "void_reason": "the seed is public"}).void
    assert from_json({**OLD, "void": True}).void, "void without a reason stays void"
    assert from_json({**OLD, "epsilon": None}).epsilon == math.inf


@pytest.mark.parametrize("missing", [each.name for each in fields(Statement) if each.name in OLD][:6])
def test_a_report_without_what_is_needed_is_refused_by_name(missing):
    short = {key: value for key, value in OLD.items() if key != missing}
    if missing in ("void_reason", "released"):
        from_json(short)
        return
    with pytest.raises(DataError, match=rf"guarantee\.{missing} is missing"):
        from_json(short)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epsilon": "3"}, r"guarantee\.epsilon='3' is not a number"),
        ({"steps": 2.5}, r"guarantee\.steps=2\.5"),
        ({"steps": True}, r"guarantee\.steps=True"),
        ({"randomness": {"secret": True}}, r"guarantee\.randomness\.cryptographic is missing"),
        ({"randomness": 7}, r"guarantee\.randomness=7 is not an object"),
        ({"outside_guarantee": "a"}, r"guarantee\.outside_guarantee='a' is not a list"),
        ({"tpr_at_fpr": {"0.01": None}}, r"guarantee\.tpr_at_fpr\.0\.01=None"),
        ({"version": 99}, r"guarantee\.version=99 is newer"),
    ],
)
def test_what_is_wrong_is_named(change, named):
    with pytest.raises(DataError, match=named):
        from_json({**OLD, **change})


@pytest.mark.parametrize("nothing", [None, [], "text", 3])
def test_no_statement_at_all(nothing):
    with pytest.raises(DataError, match="is no privacy statement"):
        from_json(nothing)


def test_bounds_are_two_numbers():
    with pytest.raises(DataError, match=r"c\.bounds=.* is not a list of 2"):
        part(Constants, {"bounds": [0.0, 1.0, 2.0]}, "c")


@pytest.mark.parametrize(
    "plan",
    [
        VotesPlan(units=9, teachers=5, classes=3, questions=4, answers=4, noise_multiplier=2.0),
        MomentsPlan(
            units=9, noise_multiplier=2.0, eigenvalue_share=0.0, second_share=0.5, cross_share=0.5,
            feature_norm=1.0, label_norm=1.0,
        ),
        BandedPlan(
            units=9, turn_rate=1.0, groups=3, steps=4, expected_batch_size=3, max_grad_norm=1.0,
            noise_multiplier=2.0, strategy=(0.8, 0.6), best_for=4,
        ),
    ],
    ids=["votes", "moments", "banded"],
)  # fmt: skip
def test_a_plan_of_the_package_is_read_where_nothing_has_imported_it(plan, monkeypatch) -> None:
    written = json.loads(json.dumps(plan_to_json(plan)))
    monkeypatch.delitem(sys.modules, type(plan).__module__)
    assert plan_from_json(written) == plan
