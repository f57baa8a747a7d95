"""The model of a step by many processes: its parts against simulation, and against what processes do."""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import script
from torch import nn

from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.training.distribution import Reply, Team
from dptrain.training.feed import Blocks

pytestmark = pytest.mark.run

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
model = script("scale_model")

MACHINE = model.Machine(
    step=3e-3, record=1e-5, work=2e-10, update=2e-8, noise=1e-8, draw=3e-8, message=2e-4, byte=5e-10
)
JOB = model.Job(parameters=10**6, batch=1000, physical=64)
RANKS = st.integers(1, 64)


@given(drawn=st.integers(0, 5000), physical=st.integers(1, 300), ranks=RANKS)
def test_the_largest_share_is_that_of_the_blocks(drawn, physical, ranks) -> None:
    blocks = Blocks(size=physical, lanes=ranks).of(torch.arange(drawn))
    shares = [sum(map(len, blocks[rank::ranks])) for rank in range(ranks)]
    assert model.share_of(drawn, physical, ranks) == max(shares)


@given(batch=st.integers(1, 3000), physical=st.integers(1, 300), ranks=RANKS)
@settings(max_examples=40, deadline=None)
def test_an_even_share_is_no_less_than_its_part_and_one_process_has_it_all(batch, physical, ranks) -> None:
    share = model.largest_share(batch, physical, ranks)
    assert share >= batch / ranks * (1 - 1e-9)
    assert model.largest_share(batch, physical, 1) == pytest.approx(batch, rel=1e-6)
    assert model.largest_of_own(batch, 1) == pytest.approx(batch, rel=1e-6)


@pytest.mark.parametrize(("batch", "ranks"), [(8, 4), (100, 8), (1177, 2), (20_000, 64)])
def test_shares_in_closed_form_are_those_of_a_simulation(batch, ranks) -> None:
    rng = np.random.default_rng(1)
    own = rng.poisson(batch / ranks, (20_000, ranks)).max(1)
    assert model.largest_of_own(batch, ranks) == pytest.approx(own.mean(), abs=5 * own.std() / 141)
    even = np.array([model.share_of(int(n), 64, ranks) for n in rng.poisson(batch, 5000)])
    assert model.largest_share(batch, 64, ranks) == pytest.approx(even.mean(), abs=5 * even.std() / 70)
    assert model.largest_of_own(batch, ranks) > model.largest_share(batch, 64, ranks)


def test_a_batch_of_many_millions_is_divided_as_evenly() -> None:
    assert model.largest_share(10**8, 1024, 64) == pytest.approx(10**8 / 64, rel=1e-3)


@given(ranks=RANKS, parameters=st.integers(1, 10**9), batch=st.integers(1, 10**5))
@settings(max_examples=40, deadline=None)
def test_noise_stays_one_process_sends_nothing_and_no_part_is_negative(ranks, parameters, batch) -> None:
    job = replace(JOB, parameters=parameters, batch=batch)
    alone, together = model.step(MACHINE, job, 1), model.step(MACHINE, job, ranks)
    assert set(together) == set(model.PARTS)
    assert alone["send"] == 0.0
    assert together["noise"] == alone["noise"] > 0
    assert together["compute"] <= alone["compute"] * (1 + 1e-6)
    assert min(together.values()) >= 0.0
    least = model.step(MACHINE, job, ranks, hops="pipeline")["send"]
    assert least <= model.step(MACHINE, job, ranks, hops="tree")["send"]


class Counting:
    """A channel to one other rank, which counts the bytes of tensors that go through it."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def say(self, message: Any) -> None:
        self.bytes.append(sum(block.nbytes for block in message.blocks))

    def same(self, tensor: torch.Tensor) -> None:
        self.bytes.append(tensor.nbytes)

    sum = same

    def gather(self, reply: object) -> list[object]:
        return [reply, Reply()]


def test_bytes_are_those_that_processes_send() -> None:
    net, channel = nn.Linear(50, 10), Counting()
    plan = DPSGDPlan(
        units=100, sample_rate=0.1, steps=1, expected_batch_size=10, max_grad_norm=1.0, noise_multiplier=1.0
    )
    engine = DPSGDEngine(
        "bookkeeping",
        net,
        torch.optim.SGD(net.parameters(), lr=0.1),
        plan,
        loss=nn.CrossEntropyLoss(reduction="none"),
        generator=torch.Generator(),
    )
    team = Team(channel, threading.Lock(), nullcontext)
    team._steps = 1  # no step at which weights are compared
    team.begin(engine, net, bytes(32), Blocks(size=4, lanes=2).of(torch.arange(10)))
    team.collect()
    assert sum(channel.bytes) == model.sent(model.Job(parameters=510, batch=10, physical=4))


def steps_of(machine: Any) -> list[Any]:
    jobs = [
        model.Job(parameters=parameters, batch=batch, physical=256)
        for parameters in (10**4, 10**5, 10**6, 10**7)
        for batch in (64, 512, 2048)
    ]
    return [
        model.Measured(
            job=job, ranks=ranks, seconds=sum(model.step(machine, job, ranks, hops="tree").values())
        )
        for job in jobs
        for ranks in (1, 2)
    ]


def test_a_machine_is_found_again_from_its_steps() -> None:
    found = model.fit(steps_of(MACHINE), noise=MACHINE.noise, draw=MACHINE.draw)
    for name, value in vars(MACHINE).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3), name
    assert max(map(abs, model.errors(found, steps_of(MACHINE)))) < 1e-6


def test_steps_that_vary_are_fitted_as_well_as_they_vary() -> None:
    rng = np.random.default_rng(2)
    varied = [
        replace(each, seconds=each.seconds * float(rng.uniform(0.9, 1.1))) for each in steps_of(MACHINE)
    ]
    found = model.fit(varied, noise=MACHINE.noise, draw=MACHINE.draw)
    assert min(vars(found).values()) >= 0.0
    assert max(map(abs, model.errors(found, varied))) < 0.2


def test_a_wrong_count_of_bytes_shows_in_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were sums sent once a record, no constants would explain steps of two processes."""
    steps = steps_of(MACHINE)
    monkeypatch.setattr(model, "sent", lambda job: job.batch * job.parameters * 12)
    found = model.fit(steps, noise=MACHINE.noise, draw=MACHINE.draw)
    assert max(map(abs, model.errors(found, steps))) > 0.05
