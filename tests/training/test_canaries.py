"""Canaries and probes in a training: clipped as records are, sampled as records are, told apart exactly."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from dptrain.contracts import Canaries
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy.clipping import Clipper
from dptrain.privacy.noise.keys import Stream
from dptrain.privacy.noisy import NoisySum
from dptrain.privacy.sampling import Units
from dptrain.training.canaries import gradients, lengths

pytestmark = pytest.mark.run

PARAMETERS = 64 * 12 + 12 + 12 * 3 + 3


class Recorder:
    """Remembers what probes and canaries were seen to add, and how much of it was noise."""

    def __init__(self, canaries):
        self.canaries = canaries
        self.seen = {"probes": [], "canaries": []}
        self.lengths = None

    def observe(self, step):
        for on, views in self.seen.items():
            views.append(step.undecided(on).clone())
        self.lengths = step.lengths(self.canaries)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def no_noise(optimizer):
    for parameter in optimizer.params:
        parameter.grad = parameter.summed_grad.clone().to(parameter.dtype)


@pytest.fixture
def watched(splits, budget, mlp, settings_of, context_of, monkeypatch):
    monkeypatch.setattr(NoisySum, "add_noise", no_noise)  # to see what is under it

    def run(*, norm=10.0, probed=(), mechanism=DPSGD, **changes):
        canaries = Canaries(coordinates=torch.tensor([0, 5, 700, PARAMETERS - 1]), norm=norm)
        recorder = Recorder(canaries)
        context = dataclasses.replace(context_of(), canaries=canaries, probed=probed, observers=(recorder,))
        mechanism(settings=settings_of(rates={"steps": 20}), **changes).fit(
            copy.deepcopy(mlp), splits, budget, context
        )
        return recorder

    return run


@pytest.mark.parametrize(
    ("engine", "clipping"),
    [("bookkeeping", "flat"), ("hooks", "flat"), ("bookkeeping", "per_layer")],
)
def test_a_canary_adds_what_clipping_leaves_of_it_in_each_step_that_samples_it(watched, engine, clipping):
    recorder = watched(engine=engine, clipping=clipping)
    views = torch.stack(recorder.seen["canaries"])
    at = recorder.canaries.coordinates
    took_part = views[:, at] > 0.1
    assert 0.0 < took_part.float().mean() < 0.9
    torch.testing.assert_close(views[:, at], took_part * recorder.lengths, rtol=0, atol=1e-4)
    beside = torch.ones(PARAMETERS, dtype=torch.bool)
    beside[at] = False
    assert views[:, beside].abs().max() < 1e-4
    assert recorder.lengths.max() <= 1.0 + 1e-6


def test_without_clipping_a_canary_keeps_its_length(watched):
    recorder = watched(mechanism=NonPrivate, norm=0.25)
    assert recorder.lengths.tolist() == [0.25] * 4
    assert torch.stack(recorder.seen["canaries"]).max() == pytest.approx(0.25)


def test_probes_are_told_apart_as_the_engine_summed_them(watched, monkeypatch):
    """An engine that forgets to clip shows in the probes' share: nobody recomputed it from honest parts."""
    honest = torch.stack(watched(probed=tuple(range(10))).seen["probes"])
    assert honest.norm(dim=1).max() <= 10.0
    monkeypatch.setattr(Clipper, "factors", lambda _, norms: torch.full_like(norms, 50.0))
    broken = torch.stack(watched(probed=tuple(range(10)), audit_sensitivity=False).seen["probes"])
    assert broken.norm(dim=1).max() > 10.0


def test_gradients_come_in_parts_and_lengths_know_the_layer(mlp, monkeypatch):
    monkeypatch.setattr("dptrain.training.canaries.ELEMENTS", 2 * PARAMETERS)
    canaries = Canaries(coordinates=torch.tensor([3, 64 * 12 + 1, PARAMETERS - 2]), norm=4.0)
    parts = list(gradients(canaries, torch.tensor([0, 1, 2]), mlp))
    assert [len(part[0]) for part in parts] == [2, 1]
    flat = torch.cat([torch.cat([piece.flatten(1) for piece in part], dim=1) for part in parts])
    assert flat.nonzero().tolist() == [[0, 3], [1, 64 * 12 + 1], [2, PARAMETERS - 2]]
    clipper = Clipper.of(mlp, "per_layer", 1.0)
    torch.testing.assert_close(
        lengths(canaries, mlp, clipper), torch.full((3,), 0.5**0.5 * (1 - clipper.margin))
    )


def test_units_get_more_of_one_record_each():
    units = Units(5, torch.tensor([0, 0, 1, 1, 1])).and_more(2)
    assert len(units) == 4
    picked = units.pick(torch.tensor([2, 3]), Stream(bytes(32)))
    assert picked.tolist() == [5, 6]
