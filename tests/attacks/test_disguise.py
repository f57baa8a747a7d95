"""Attackers who look like people: what is asked besides, what it costs, and that answers stay in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dptrain.attacks.disguise import Disguise
from dptrain.attacks.label_inversion import LabelInversion
from dptrain.attacks.membership import LossThreshold
from dptrain.attacks.query_inversion import QueryInversion
from dptrain.attacks.search_space import SearchSpace
from dptrain.contracts import ConfigError, OutOfQueries, Records, Release, Targets

SHAPE = (1, 4, 4)


def targets(records: int = 50, probes: Records | None = None) -> Targets:
    rng = torch.Generator().manual_seed(0)
    away = torch.randn(records, 3, generator=rng) @ torch.randn(3, 16, generator=rng)
    own = Records((0.5 + 0.02 * away).view(-1, *SHAPE), torch.zeros(records, dtype=torch.int64))
    return Targets(
        classes=("a", "b", "c"), shape=SHAPE, bounds=(0.0, 1.0), mean=(0.4,), background=own, probes=probes
    )


class Asked:
    """A release whose answers tell inputs apart, and which remembers them; `most` are answered."""

    def __init__(self, most: float = math.inf) -> None:
        self.inputs: list[torch.Tensor] = []
        self.most = most

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if sum(map(len, self.inputs)) + len(inputs) > self.most:
            raise OutOfQueries("no more")
        self.inputs.append(inputs)
        return inputs.flatten(1)[:, :3].softmax(-1)

    @property
    def release(self) -> Release:
        return Release(predictions=self)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_decoys_are_paid_for_and_answers_are_those_of_ones_own_inputs(share):
    asked, public, budget = Asked(), targets(), 1000
    interface = Disguise(decoys=share).ask(asked.release, public, seeded(), budget)
    sizes, own = torch.Generator().manual_seed(2), 0
    while (count := min(int(torch.randint(1, 40, (), generator=sizes)), interface.room)) > 0:
        inputs = torch.rand(count, *SHAPE, generator=sizes)
        answers = interface.confidences(inputs)
        torch.testing.assert_close(answers, inputs.flatten(1)[:, :3].softmax(-1))
        own += count
        assert interface.spent == math.ceil(own / (1 - share) - 1e-9)
    assert interface.spent <= budget
    assert own == math.floor(budget * (1 - share) + 1e-9)
    every = torch.cat(asked.inputs)
    assert len(every) == interface.spent
    known = {tuple(row) for row in public.background.inputs.flatten(1).tolist()}
    assert sum(tuple(row) in known for row in every.flatten(1).tolist()) == interface.spent - own


def test_jitter_moves_what_is_asked_within_the_bounds_and_nothing_is_drawn_without_it():
    asked, inputs, rng = Asked(), torch.rand(200, *SHAPE, generator=seeded()), seeded()
    Disguise(jitter=0.05).ask(asked.release, targets(), rng).confidences(inputs)
    (seen,) = asked.inputs
    assert 0.0 <= seen.min() <= seen.max() <= 1.0
    inside = (inputs - 0.5).abs() < 0.3
    assert float((seen - inputs)[inside].std()) == pytest.approx(0.05, rel=0.1)
    before = rng.get_state()
    Disguise().ask(asked.release, targets(), rng).confidences(inputs)
    assert torch.equal(rng.get_state(), before)
    assert torch.equal(asked.inputs[1], inputs)


def test_in_range_inputs_differ_as_the_records_do():
    """Against the covariance that numpy computes of the records."""
    public = targets(400)
    space = SearchSpace(targets=public, frequencies=12, decay=0.5, contrast=1.0, in_range=True)
    drawn = space.inputs(torch.randn(20000, space.size, generator=seeded())).flatten(1).double()
    records = public.background.inputs.flatten(1).double().numpy()
    wanted, found = np.cov(records.T), np.cov(drawn.numpy().T)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.abs(drawn.numpy().mean(0) - records.mean(0)).max() < 0.002


@pytest.mark.parametrize("kind", [QueryInversion, LabelInversion])
@pytest.mark.parametrize("most", [0, 30, 150])
def test_an_inversion_ends_with_what_it_has_where_nothing_more_is_answered(kind, most):
    asked = Asked(most)
    found = kind(queries=400, decoys=0.3, in_range=True).run(asked.release, targets(), seeded())
    assert found.inputs.shape == (6, *SHAPE)
    assert sum(map(len, asked.inputs)) <= most
    whole = Asked()
    kind(queries=400, decoys=0.3).run(whole.release, targets(), seeded())
    assert 300 < sum(map(len, whole.inputs)) <= 400


def test_scores_of_probes_are_theirs_whatever_is_asked_in_between():
    probes = Records(torch.rand(20, *SHAPE, generator=seeded()), torch.arange(20) % 3)
    public = targets(probes=probes)
    plain, among = (
        LossThreshold(decoys=share).run(Asked().release, public, seeded()) for share in (0.0, 0.75)
    )
    torch.testing.assert_close(plain.scores, among.scores)


def test_what_needs_records_is_refused_without_them():
    nobody = targets(0)
    with pytest.raises(ConfigError, match=r"decoys=0.5 are drawn of held-out records"):
        LossThreshold(decoys=0.5).check(nobody)
    with pytest.raises(ConfigError, match="in_range=true searches among"):
        QueryInversion(in_range=True).check(nobody)
    QueryInversion().check(nobody)
