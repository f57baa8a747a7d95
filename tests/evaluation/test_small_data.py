"""Small data: what there is no room for comes in smaller numbers, or not at all, and no record is lost."""

from dataclasses import replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dptrain.config import Evidence
from dptrain.contracts import Budget, Records, Splits, Streams
from dptrain.evaluation.assignment import prepare
from dptrain.evaluation.games.membership.game import Membership
from dptrain.evaluation.games.reconstruction.game import Reconstruction
from dptrain.evaluation.preconditions import without_room
from dptrain.pipeline.counts import counts, scaled

EVIDENCE = Evidence()
GAMES = {"membership": Membership(evidence=EVIDENCE), "reconstruction": Reconstruction(evidence=EVIDENCE)}
BUDGET = Budget(epsilon=3.0, delta=1e-5, noise_multiplier=None)


def sized(splits: Splits, train: int, holdout: int, *, each: int = 0) -> Splits:
    """As many records, none alike; with `each` of one group."""
    rng = torch.Generator().manual_seed(train)
    inputs = torch.rand(train + holdout, *splits.shape, generator=rng)
    records = Records(inputs, torch.arange(train + holdout) % splits.num_classes)
    groups = torch.arange(train + holdout) // each if each else None
    return replace(
        splits,
        train=records.take(torch.arange(train)),
        holdout=records.take(torch.arange(train, train + holdout)),
        group_ids=None if groups is None else groups[:train],
        holdout_group_ids=None if groups is None else groups[train:] + train,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(train=st.integers(4, 900), share=st.floats(0.02, 0.5), each=st.integers(0, 3), seed=st.integers(0, 99))
def test_any_number_of_records_is_served_and_none_is_lost(splits, train, share, each, seed) -> None:
    small = sized(splits, train, max(1, round(share * train)), each=each)
    after, assignments = prepare(small, GAMES, EVIDENCE, Streams(seed))
    found = counts(after, assignments, BUDGET)
    assert found.files == len(small.train) + len(small.holdout) + len(small.test)
    assert found.trained_on >= 0.7 * train
    told = {line.key for line in scaled(assignments, EVIDENCE)}
    there = assignments.described()
    for key in ("slots", "candidates", "probes"):
        used = getattr(there, key)
        assert (f"evidence.{key}" in told) == (used is not None and used < getattr(EVIDENCE, key))
    for game in GAMES.values():
        if assignments.of(game) is None:
            assert list(game.problems(after, None)), "what is left out has a reason"


def test_numbers_that_were_asked_for_are_refused_where_there_is_no_room(splits) -> None:
    _, assignments = prepare(sized(splits, 210, 45), GAMES, EVIDENCE, Streams(0))
    assert not list(without_room(assignments, EVIDENCE, ("attack", "evidence.probes")))
    (problem,) = without_room(assignments, EVIDENCE, ("evidence.slots",))
    assert problem.startswith("evidence.slots=24 needs more held-out records than there are")
    assert "6 slots of 4 candidates; choose fewer of either" in problem
