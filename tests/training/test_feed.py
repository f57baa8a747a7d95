"""Reading ahead changes when records are read, and nothing else."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from dptrain.contracts import Canaries, DataError, Records, Streams, devices
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy import dpsgd
from dptrain.privacy.sampling import PoissonSampler, ShuffleSampler, Units
from dptrain.training import checkpoint
from dptrain.training.feed import Blocks, Drawn, Feed

pytestmark = pytest.mark.run

STEPS = 8
KEY = bytes(32)
HOOKS = partial(DPSGD, engine="hooks", audit_sensitivity=False)  # the audit reads by itself


class Crash(Exception):
    pass


class Slow:
    """Rows that take a while to read, and remember which thread read them."""

    def __init__(self, inputs: Tensor, seconds: float = 0.0, broken: int | None = None) -> None:
        self.inputs, self.seconds, self.broken = inputs, seconds, broken
        self.shape = tuple(inputs.shape)
        self.readers: list[str] = []

    def read(self, indices: Tensor) -> Tensor:
        time.sleep(self.seconds)
        self.readers.append(threading.current_thread().name)
        if self.broken is not None and self.broken in indices.tolist():
            raise DataError("scan.png cannot be read as an image: repair or remove it")
        return self.inputs[indices]


@pytest.fixture
def lazily(splits):
    """The splits, their training records on demand."""

    def make(**options):
        rows = Slow(splits.train.inputs, **options)
        return replace(splits, train=Records(rows, splits.train.labels)), rows

    return make


@pytest.fixture
def fit(settings_of, context_of, budget):
    def run(model, splits, *, ahead, folder=None, streams=None, mechanism=HOOKS, context=None, **changes):
        settings = settings_of(prefetch=ahead, physical_batch_size=4, average_decay=0.9, **changes)
        around = context_of(
            streams=streams or Streams(seed=7, deterministic=True), folder=folder, **(context or {})
        )
        return mechanism(settings=settings).fit(model, splits, budget, around)

    return run


@pytest.mark.parametrize("ahead", [1, 3, 50])
@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
@pytest.mark.parametrize("mechanism", [HOOKS, NonPrivate], ids=["private", "plain"])
def test_weights_are_the_same_bit_for_bit(fit, lazily, splits, models, flat, ahead, sampling, mechanism):
    probed = {"probed": (3, 7, 20, 41), "planted": (5, 6)}
    options = {"rates": {"sampling": sampling}, "mechanism": mechanism, "context": probed}
    held, _ = fit(models["mlp"](), splits, ahead=ahead, **options)
    here, _ = fit(models["mlp"](), lazily()[0], ahead=0, **options)
    lazy, rows = lazily(seconds=0.001)
    there, _ = fit(models["mlp"](), lazy, ahead=ahead, **options)
    assert torch.equal(flat(held.weights), flat(here.weights))
    assert torch.equal(flat(held.weights), flat(there.weights))
    assert all(name.startswith("dptrain-reader") for name in rows.readers)
    assert not [each for each in threading.enumerate() if each.name.startswith("dptrain-reader")]


def test_canaries_are_drawn_and_not_read(fit, lazily, models, splits, flat):
    canaries = Canaries(coordinates=torch.tensor([5, 9, 100]), norm=1.0)
    rates = {"expected_batch_size": 30}
    held, _ = fit(models["mlp"](), splits, ahead=0, context={"canaries": canaries}, rates=rates)
    lazy, _ = fit(models["mlp"](), lazily()[0], ahead=2, context={"canaries": canaries}, rates=rates)
    assert torch.equal(flat(held.weights), flat(lazy.weights))


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_a_state_is_the_one_before_what_was_drawn_and_not_taken(make_plan_of, lazily, ahead):
    records = lazily()[0].train
    plan = make_plan_of(sample_rate=0.2)

    def feed_of(seed, step=0, state=None):
        sampler = PoissonSampler(plan, Units(60), bytes([seed]) * 32)
        feed = Feed(sampler, records, steps=STEPS, blocks=Blocks(size=4), probed=(1, 2, 3), ahead=ahead)
        if state is not None:
            feed.load_state_dict(state, step=step)
        return feed

    def go(feed, steps):
        taken = []
        for _ in range(steps):
            drawn = feed.draw()
            parts = [feed.read(part).labels for part in (*drawn.ordinary, *drawn.probes)]
            taken.append((drawn, parts))
        return taken

    with feed_of(1) as feed:
        whole = go(feed, STEPS)
    for stop in range(STEPS):
        with feed_of(1) as feed:
            go(feed, stop)
            state = feed.state_dict()
        with feed_of(2, stop, state) as feed:
            again = go(feed, STEPS - stop)
        for (old, old_parts), (new, new_parts) in zip(whole[stop:], again, strict=True):
            assert torch.equal(old.sampled, new.sampled)
            assert all(map(torch.equal, (*old.ordinary, *old.probes), (*new.ordinary, *new.probes)))
            assert all(map(torch.equal, old_parts, new_parts))


def test_shuffled_batches_are_drawn_again_likewise(make_plan_of, lazily):
    plan = make_plan_of(units=60, expected_batch_size=7, sampling="shuffle")
    records = lazily()[0].train

    def feed_of(seed):
        sampler = ShuffleSampler(plan, Units(60), bytes([seed]) * 32)
        return Feed(sampler, records, steps=30, blocks=Blocks(size=7), ahead=4)

    with feed_of(1) as feed:
        for _ in range(8):  # the pass ends after nine batches, which are drawn ahead by now
            for part in feed.draw().ordinary:
                feed.read(part)
        state = feed.state_dict()
        rest = [feed.draw().sampled for _ in range(1)]
    with feed_of(2) as other:
        other.load_state_dict(state, step=8)
        assert torch.equal(other.draw().sampled, rest[0])


def test_other_secrets_take_back_what_was_drawn_ahead(make_plan_of, lazily):
    """Of a pass that is under way each unit still takes part once, in the batch that it was dealt to."""
    plan = make_plan_of(units=60, expected_batch_size=7, sampling="shuffle")
    sampler = ShuffleSampler(plan, Units(60), bytes(32))
    with Feed(sampler, lazily()[0].train, steps=30, blocks=Blocks(size=7), ahead=4) as feed:
        seen = []
        for step in range(sampler.batches):
            if step == 6:  # of nine; the next pass is dealt by now
                feed.renew(bytes([1]) * 32, step=6, skipped=0)
            drawn = feed.draw()
            seen.append(drawn.sampled)
            for part in drawn.ordinary:
                feed.read(part)
        assert sorted(torch.cat(seen).tolist()) == list(range(60))
        following = feed.draw().sampled
    other = ShuffleSampler(plan, Units(60), bytes(32))
    for _ in range(sampler.batches):
        other.draw()
    assert not torch.equal(following, other.draw())


@pytest.mark.parametrize("at", [1, 4, 8])
@pytest.mark.parametrize("seconds", [0.0, 1e9])  # a checkpoint each step; none but the first
def test_a_run_that_stopped_goes_on_with_the_same_draws(
    monkeypatch, fit, lazily, models, flat, folder, at, seconds
):
    whole, _ = fit(models["mlp"](), lazily()[0], ahead=0)
    original, calls = dpsgd.DPSGDEngine.update, []

    def update(self):
        calls.append(1)
        if len(calls) == at:
            raise Crash
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(dpsgd.DPSGDEngine, "update", update)
        with pytest.raises(Crash):
            fit(models["mlp"](), lazily()[0], ahead=3, folder=folder, checkpoint_seconds=seconds)
    assert checkpoint.paid(folder) == at  # what was drawn ahead is not paid for
    resumed, _ = fit(models["mlp"](), lazily()[0], ahead=2, folder=folder)
    assert torch.equal(flat(whole.weights), flat(resumed.weights))


def test_ctrl_c_ends_the_reading(monkeypatch, fit, lazily, models):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dpsgd.DPSGDEngine, "update", interrupted)
    splits, rows = lazily(seconds=0.02)
    with pytest.raises(KeyboardInterrupt):
        fit(models["mlp"](), splits, ahead=20)
    read = len(rows.readers)
    time.sleep(0.1)
    assert len(rows.readers) == read < 20
    assert not [each for each in threading.enumerate() if each.name.startswith("dptrain-reader")]


def test_what_cannot_be_read_is_said_where_it_is_needed(fit, lazily, models):
    splits, _ = lazily(broken=31)
    with pytest.raises(DataError, match=r"scan\.png cannot be read"):
        fit(models["mlp"](), splits, ahead=2, rates={"expected_batch_size": 40})


def test_no_more_is_drawn_than_there_are_steps_nor_read_than_was_asked_for(make_plan_of, lazily):
    splits, rows = lazily()
    sampler = PoissonSampler(make_plan_of(sample_rate=0.5), Units(60), KEY)
    draws, draw = [], sampler.draw
    sampler.draw = lambda: draws.append(draw()) or draws[-1]
    with Feed(sampler, splits.train, steps=3, blocks=Blocks(size=5), ahead=4) as feed:
        drawn = feed.draw()
        time.sleep(0.05)
        assert len(rows.readers) <= 4
        assert len(draws) <= 2
        for part in drawn.ordinary:
            feed.read(part)
        for _ in range(2):
            for part in feed.draw().ordinary:
                feed.read(part)
    assert len(draws) == 3


def test_empty_steps_are_steps(make_plan_of, lazily):
    sampler = PoissonSampler(make_plan_of(sample_rate=1e-9), Units(60), KEY)
    with Feed(sampler, lazily()[0].train, steps=50, blocks=Blocks(size=5), ahead=4) as feed:
        assert [len(feed.draw().sampled) for _ in range(50)] == [0] * 50


def test_reading_takes_no_time_beside_computing(make_plan_of, lazily):
    def seconds(ahead: int) -> float:
        splits, _ = lazily(seconds=0.01)
        sampler = PoissonSampler(make_plan_of(sample_rate=0.5), Units(60), KEY)
        with Feed(sampler, splits.train, steps=6, blocks=Blocks(size=10), ahead=ahead) as feed:
            started = time.perf_counter()
            for _ in range(6):
                for part in feed.draw().ordinary:
                    feed.read(part)
                    time.sleep(0.01)  # computing
            return time.perf_counter() - started

    assert seconds(2) < 0.75 * seconds(0)


def test_draws_are_divided_by_kind_and_all_there(rng):
    of = partial(Drawn.of, records=50, probed=(4, 9, 30, 49), blocks=Blocks(size=6))
    for step in range(5):
        sampled = (torch.rand(56, generator=rng) < 0.5).nonzero().squeeze(1)
        drawn = of(sampled, step=step)
        parts = (*drawn.ordinary, *drawn.probes, drawn.canaries + 50)
        assert torch.equal(torch.cat(parts).sort().values, sampled)
        assert all(0 < len(part) <= 6 for part in parts[:-1])
        assert {int(place) for part in drawn.probes for place in part} <= {4, 9, 30, 49}
        assert len(drawn.probes) == 0 or len(drawn.probes[0]) == 1


@pytest.mark.parametrize("ahead", [0, 3])
def test_probes_take_turns_at_being_first(make_plan_of, lazily, ahead):
    sampler = PoissonSampler(make_plan_of(sample_rate=1.0), Units(60), KEY)
    with Feed(
        sampler, lazily()[0].train, steps=9, blocks=Blocks(size=9), probed=(4, 9, 30), ahead=ahead
    ) as feed:
        feed.load_state_dict(sampler.state_dict(), step=2)
        first = []
        for _ in range(6):
            drawn = feed.draw()
            first.append(int(drawn.probes[0]))
            for part in (*drawn.ordinary, *drawn.probes):
                feed.read(part)
    assert first == [9, 4, 30] * 2


@pytest.fixture
def pins(monkeypatch):
    """A CPU that takes what is in page-locked memory, as a GPU does; which thread put it there."""
    threads, pinned = [], set()

    def pin(tensor):
        threads.append(threading.current_thread().name)
        made = tensor.clone()
        pinned.add(made.data_ptr())
        return made

    monkeypatch.setattr(devices, "TAKES_PINNED", ("cpu",))
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: tensor.data_ptr() in pinned)
    return threads


def test_what_is_read_ahead_is_page_locked_by_the_reader_and_trains_the_same(fit, lazily, models, flat, pins):
    there, _ = fit(models["mlp"](), lazily()[0], ahead=2)
    assert len(pins) >= 2 * STEPS  # inputs and labels of each batch
    assert all(name.startswith("dptrain-reader") for name in pins)
    pins.clear()
    here, _ = fit(models["mlp"](), lazily()[0], ahead=0)
    assert not pins  # read when it is needed, it would only be copied once more
    assert torch.equal(flat(there.weights), flat(here.weights))


@pytest.mark.usefixtures("pins")
def test_a_device_takes_page_locked_records_without_waiting(monkeypatch):
    taken = []
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda *args, **named: taken.append(named) or to(*args, **named))
    records = Records({"image": torch.ones(3, 2), "words": torch.ones(3, 4).long()}, torch.zeros(3).long())
    cpu = torch.device("cpu")
    for each, meanwhile in ((records, False), (records.staged(cpu), True)):
        taken.clear()
        moved = each.to(cpu, torch.float64)
        assert [named["non_blocking"] for named in taken] == [meanwhile] * 3
        assert moved.inputs["image"].dtype == torch.float64
        assert moved.inputs["words"].dtype == moved.labels.dtype == torch.int64


def test_a_cpu_takes_records_as_they_are():
    inputs = torch.ones(3, 2)
    records = Records(inputs, torch.zeros(3).long())
    assert records.staged(torch.device("cpu")).inputs is inputs
