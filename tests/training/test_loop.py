"""Every step is paid for before it is taken, and a run that was stopped goes on as if it had not been."""

import copy
import json
import os
import random
import shutil
import signal
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from programs import loaded
from torch import nn

from dptrain.contracts import Budget, Context, DptrainError, Records, Splits, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy import accountant, dpsgd
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.plan import Rates
from dptrain.privacy.sampling import PoissonSampler
from dptrain.tracking import NullRun
from dptrain.training import checkpoint
from dptrain.training import fit as fitting
from dptrain.training.masks import Masks
from dptrain.training.settings import Settings

pytestmark = pytest.mark.run


class Crash(Exception):
    pass


def crash_at(monkeypatch, owner, name, count):
    """The `count`-th call of this method fails before it does anything."""
    original = getattr(owner, name)
    calls = []

    def method(*arguments, **keywords):
        calls.append(1)
        if len(calls) == count:
            raise Crash
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, method)


def dropout_model():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.Linear(12, 3))


@pytest.fixture
def fit(splits, settings_of, context_of, budget):
    """Train in a folder, with draws from the operating system as a real run has them."""

    def run(model, folder, *, engine="hooks", streams=None, audit=True, **changes):
        context = context_of(streams=streams or Streams(seed=7), folder=folder)
        mechanism = DPSGD(settings=settings_of(**changes), engine=engine, audit_sensitivity=audit)
        return mechanism.fit(model, splits, budget, context)

    return run


@pytest.mark.parametrize(
    ("kind", "owner", "method"),
    [
        ("hooks", PoissonSampler, "draw"),
        ("hooks", dpsgd.DPSGDEngine, "accumulate"),
        ("hooks", dpsgd.DPSGDEngine, "update"),
        ("bookkeeping", dpsgd.DPSGDEngine, "accumulate"),
        ("bookkeeping", dpsgd.DPSGDEngine, "update"),
    ],
)
def test_the_ledger_is_written_before_the_step(monkeypatch, fit, mlp, folder, kind, owner, method):
    crash_at(monkeypatch, owner, method, 5)
    with pytest.raises(Crash):
        fit(mlp, folder, engine=kind, audit=False)  # which accumulates at steps that nobody can foretell
    assert checkpoint.paid(folder) == 5
    assert checkpoint.load(folder)["step"] == 4


def test_the_ledger_holds_at_least_the_epsilon_of_its_steps(monkeypatch, fit, mlp, folder):
    crash_at(monkeypatch, PoissonSampler, "draw", 5)
    with pytest.raises(Crash):
        fit(mlp, folder)
    entry = json.loads((folder / checkpoint.LEDGER).read_text())
    plan = DPSGDPlan(**checkpoint.load(folder)["plan"])
    spent = accountant.privacy_loss(plan, 5).get_epsilon_for_delta(1e-5)
    assert entry["steps"] == 5
    assert entry["epsilon"] >= spent > 0


@pytest.mark.parametrize("seconds", [0.0, 1e9])  # a checkpoint each step; none but the first
@pytest.mark.parametrize("make", ["mlp", "dropout"])
def test_a_crash_is_resumed_with_the_identical_draws(monkeypatch, fit, models, folder, flat, make, seconds):
    model = dropout_model if make == "dropout" else models["mlp"]
    seen = []
    original = fitting.make_sampler

    def spying(*arguments):
        sampler = original(*arguments)
        draw = sampler.draw
        sampler.draw = lambda: seen.append(draw()) or seen[-1]
        return sampler

    monkeypatch.setattr(fitting, "make_sampler", spying)
    with monkeypatch.context() as patch:
        crash_at(patch, dpsgd.DPSGDEngine, "update", 6)
        with pytest.raises(Crash):
            fit(model(), folder, checkpoint_seconds=seconds, average_decay=0.9)
    before, saved = list(seen), checkpoint.load(folder)["step"]
    assert saved == (5 if seconds == 0.0 else 0)
    seen.clear()
    twice = copy.deepcopy(folder), folder.with_name("again")
    twice[1].mkdir()
    for path in folder.iterdir():
        (twice[1] / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(random.randrange(2**31))  # a new process stands elsewhere
    first, guarantee = fit(model(), twice[0], checkpoint_seconds=seconds, average_decay=0.9)
    assert guarantee.replayed_steps == 6 - saved
    for old, new in zip(before[saved:], seen, strict=False):
        assert torch.equal(old, new)
    assert len(seen) == 8 - saved
    torch.manual_seed(random.randrange(2**31))
    second, _ = fit(model(), twice[1], checkpoint_seconds=seconds, average_decay=0.9)
    assert not torch.equal(flat(first.weights), flat(second.weights)), "two copies took a step with one noise"
    assert first.published != second.published


class Steps:
    """Of each step that is taken, in order: who takes part, the key of its masks, the noise on its sum."""

    def __init__(self, monkeypatch, at=None, before="update"):
        """At the `at`-th step raise Crash, `before` its noise (update) or before its tag (seal)."""
        self.drawn, self.masks, self.noise = [], [], []
        update, seal = dpsgd.DPSGDEngine.update, dpsgd.DPSGDEngine.seal
        draw, next_step, add = PoissonSampler.draw, Masks.next_step, NoiseSource.add
        turns = {"update": 0, "seal": 0}

        def crash(name):
            turns[name] += 1
            if name == before and turns[name] == at:
                raise Crash

        def updating(engine):
            crash("update")
            return update(engine)

        def sealing(engine):
            crash("seal")
            return seal(engine)

        def moving(masks):
            next_step(masks)
            self.masks.append(masks.step_key)

        def adding(source, sums, std):
            noisy = add(source, sums, std)
            pairs = zip(noisy, sums, strict=True)
            self.noise.append(torch.cat([(one.double() - two.double()).flatten() for one, two in pairs]))
            return noisy

        monkeypatch.setattr(dpsgd.DPSGDEngine, "update", updating)
        monkeypatch.setattr(dpsgd.DPSGDEngine, "seal", sealing)
        monkeypatch.setattr(
            PoissonSampler, "draw", lambda sampler: self.drawn.append(draw(sampler)) or self.drawn[-1]
        )
        monkeypatch.setattr(Masks, "next_step", moving)
        monkeypatch.setattr(NoiseSource, "add", adding)


def run_on(fit, models, folder, at=None, before="update", **options):
    """What the steps of a process are that goes on in this folder, until it is stopped in one of them."""
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, at, before)
        if at is None:
            steps.release, steps.guarantee = fit(models["mlp"](), folder, audit=False, **options)
        else:
            with pytest.raises(Crash):
                fit(models["mlp"](), folder, audit=False, **options)
    return steps


def copied(folder, name):
    return Path(shutil.copytree(folder, folder.with_name(name)))


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize(("before", "tagged"), [("update", 3), ("seal", 2)])
def test_a_copy_repeats_what_has_a_tag_and_shares_no_other_noise(
    fit, models, folder, seconds, before, tagged
):
    """The third step is paid for; where there is no tag of it, a copy may come to another sum in it."""
    run_on(fit, models, folder, 3, before, checkpoint_seconds=seconds)
    saved = checkpoint.load(folder)["step"]
    assert (checkpoint.paid(folder), saved) == (3, 2 if seconds == 0.0 else 0)
    copy_of = copied(folder, "copy")
    one, other = (run_on(fit, models, each, checkpoint_seconds=seconds) for each in (folder, copy_of))
    same = tagged - saved
    for each in (one, other):
        assert (each.guarantee.replayed_steps, each.guarantee.lost_steps) == (same, 0)
        assert each.guarantee.epsilon() == one.guarantee.epsilon()
        assert len(each.noise) == 8 - saved
    for mine, theirs in zip(one.noise[:same], other.noise[:same], strict=True):
        assert torch.equal(mine, theirs)
    assert one.masks[:same] == other.masks[:same]
    assert not set(one.masks[same:]) & set(other.masks[same:])
    for mine, theirs in zip(one.noise[same:], other.noise[same:], strict=True):
        assert abs(float(torch.corrcoef(torch.stack([mine, theirs]))[0, 1])) < 0.25
    assert not all(map(torch.equal, one.drawn[same:], other.drawn[same:]))
    assert (one.release.weights.keys(), checkpoint.paid(copy_of)) == (other.release.weights.keys(), 8)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_second_stop_repeats_steps_by_the_secrets_that_they_were_taken_with(fit, models, folder, seconds):
    first = run_on(fit, models, folder, 3, checkpoint_seconds=seconds)
    back = checkpoint.load(folder)["step"]
    second = run_on(fit, models, folder, 6 - back, checkpoint_seconds=seconds)  # in the sixth step
    begun = checkpoint.load(folder)["step"]
    assert (checkpoint.paid(folder), begun) == (6, 5 if seconds == 0.0 else 3)
    third = run_on(fit, models, folder, checkpoint_seconds=seconds)
    assert third.guarantee.replayed_steps == 6 - begun
    assert all(map(torch.equal, second.drawn[: 3 - back], first.drawn[back:]))
    assert second.masks[: 3 - back] == first.masks[back:]
    since = second.noise[begun - back :], second.drawn[begun - back :], second.masks[begun - back :]
    assert len(since[1]) == 6 - begun
    assert all(map(torch.equal, since[0], third.noise))
    assert all(map(torch.equal, since[1], third.drawn))
    assert third.masks[: 6 - begun] == since[2]


def test_a_stop_before_the_new_secrets_are_kept_takes_none_of_them(monkeypatch, fit, models, folder):
    first = run_on(fit, models, folder, 3, checkpoint_seconds=1e9)
    with monkeypatch.context() as patch:
        crash_at(patch, checkpoint, "save", 1)
        with pytest.raises(Crash):
            fit(models["mlp"](), folder, audit=False, checkpoint_seconds=1e9)
    assert (checkpoint.load(folder)["step"], checkpoint.paid(folder)) == (0, 3)
    again = run_on(fit, models, folder, checkpoint_seconds=1e9)
    assert again.guarantee.replayed_steps == 3
    assert all(map(torch.equal, first.drawn, again.drawn))


def test_tags_that_are_gone_cost_the_steps(fit, models, folder):
    """Of two steps that are paid for only the last can have been stopped before its noise."""
    run_on(fit, models, folder, 4, checkpoint_seconds=1e9)
    kept = (folder / checkpoint.SEALS).read_bytes()
    (folder / checkpoint.SEALS).write_bytes(kept[: 2 * checkpoint.SEAL.size])
    again = run_on(fit, models, folder, checkpoint_seconds=1e9)
    assert (again.guarantee.replayed_steps, again.guarantee.lost_steps) == (0, 4)
    assert len(again.noise) == 2 + 4


def test_what_is_told_of_a_step_is_on_the_disk_before(monkeypatch, fit, mlp, folder):
    happened = []
    settle = checkpoint.settle
    monkeypatch.setattr(checkpoint, "settle", lambda place: settle(place) or happened.append("settled"))
    tell = NullRun.metric
    monkeypatch.setattr(NullRun, "metric", lambda self, *what: happened.append("told") or tell(self, *what))
    fit(mlp, folder, evaluations=2)
    assert happened == ["settled", "told", "told"] * 2


@pytest.mark.parametrize("make", ["mlp", "dropout"])
@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(monkeypatch, fit, models, folder, flat, at, make):
    model = dropout_model if make == "dropout" else models["mlp"]
    streams = Streams(seed=3, deterministic=True)
    options = {
        "streams": streams,
        "schedule": "cosine",
        "average_decay": 0.9,
        "evaluations": 4,
        "optimizer": partial(torch.optim.Adam, lr=0.01),
    }
    torch.manual_seed(1)
    whole, promised = fit(model(), None, **options)
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        crash_at(patch, dpsgd.DPSGDEngine, "update", at)
        with pytest.raises(Crash):
            fit(model(), folder, **options)
    torch.manual_seed(2)
    resumed, guarantee = fit(model(), folder, **options)
    assert torch.equal(flat(whole.weights), flat(resumed.weights))
    assert whole.published == resumed.published
    assert guarantee.epsilon() == promised.epsilon()
    assert checkpoint.load(folder)["step"] == checkpoint.paid(folder) == guarantee.plan.steps


def test_a_finished_training_is_not_trained_again(monkeypatch, fit, mlp, models, folder, flat):
    first, _ = fit(mlp, folder)
    crash_at(monkeypatch, PoissonSampler, "draw", 1)
    again, guarantee = fit(models["mlp"](), folder)
    assert torch.equal(flat(first.weights), flat(again.weights))
    assert guarantee.replayed_steps == 0


def test_paid_steps_whose_draws_are_lost_are_not_taken_anew(monkeypatch, fit, mlp, models, folder):
    crash_at(monkeypatch, PoissonSampler, "draw", 3)
    with pytest.raises(Crash):
        fit(mlp, folder)
    checkpoint.remove(folder)
    with pytest.raises(
        DptrainError, match=r"3 steps are paid for but checkpoint\.pt is gone, .*start a new run"
    ):
        fit(models["mlp"](), folder)


def test_a_checkpoint_of_another_plan_is_refused(monkeypatch, fit, mlp, models, folder):
    crash_at(monkeypatch, PoissonSampler, "draw", 3)
    with pytest.raises(Crash):
        fit(mlp, folder)
    with pytest.raises(DptrainError, match=r"another plan \(.*steps=8 is now 9"):
        fit(models["mlp"](), folder, rates={"steps": 9})


def test_a_checkpoint_holds_the_plan_and_everything_that_changes(fit, mlp, folder):
    _, guarantee = fit(mlp, folder)
    state = checkpoint.load(folder)
    assert state["plan"] == asdict(guarantee.plan)
    assert {
        "step",
        "model",
        "optimizer",
        "schedule",
        "sampler",
        "noise",
        "masks",
        "observers",
    } <= state.keys()


def test_without_a_folder_nothing_is_written(fit, mlp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(mlp, None)
    assert list(tmp_path.iterdir()) == []


def test_every_step_is_taken_empty_or_not(fit, mlp, monkeypatch):
    sizes, updates = [], []
    draw, update = PoissonSampler.draw, dpsgd.DPSGDEngine.update
    monkeypatch.setattr(PoissonSampler, "draw", lambda self: sizes.append(draw(self)) or sizes[-1])
    monkeypatch.setattr(dpsgd.DPSGDEngine, "update", lambda self: updates.append(update(self)))
    fit(mlp, None, rates={"expected_batch_size": 1, "steps": 30})
    assert len(sizes) == len(updates) == 30
    assert min(len(drawn) for drawn in sizes) == 0


def test_progress_counts_every_step_and_never_understates(mlp, splits, settings_of, context_of, budget):
    calls = []
    context = context_of(progress=lambda **values: calls.append(values))
    _, guarantee = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context)
    assert [(call["done"], call["total"]) for call in calls] == [(step, 8) for step in range(9)]
    assert calls[0]["epsilon"] == 0.0
    for call in calls[1:]:
        spent = accountant.privacy_loss(guarantee.plan, call["done"])
        assert call["epsilon"] >= spent.get_epsilon_for_delta(1e-5) - 1e-12


def test_evaluations_are_spread_evenly_and_end_at_the_end(mlp, splits, settings_of, context_of, budget):
    release, _ = DPSGD(settings=settings_of(evaluations=4)).fit(mlp, splits, budget, context_of())
    assert [step for step, _, _ in release.published] == [2, 4, 6, 8]
    accuracy = (release.predict(splits.holdout.inputs).argmax(-1) == splits.holdout.labels).float().mean()
    assert release.published[-1][1] == pytest.approx(float(accuracy))


def test_a_training_that_diverges_says_so(mlp, splits, settings_of, context_of, budget):
    settings = settings_of(optimizer=partial(torch.optim.SGD, lr=1e38))
    with pytest.raises(DptrainError, match=r"diverged: .* lower optimizer\.lr"):
        NonPrivate(settings=settings).fit(mlp, splits, budget, context_of())


def train_alone(folder: Path, out: Path, seconds: float) -> None:
    """A whole training in a process of its own; what it ends with is written last."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(1)

    def records(count):
        return Records(torch.rand(count, 1, 4, 4, generator=rng), torch.randint(3, (count,), generator=rng))

    splits = Splits(
        name="noise",
        source="drawn for a test",
        train=records(50),
        holdout=records(20),
        test=records(10),
        classes=("a", "b", "c"),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        std=(0.5,),
    )
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    settings = Settings(
        rates=Rates(expected_batch_size=10, steps=60),
        optimizer=partial(torch.optim.SGD, lr=0.3, momentum=0.9),
        physical_batch_size=4,
        schedule="linear",
        warmup_steps=5,
        average_decay=0.9,
        evaluations=5,
        checkpoint_seconds=seconds,
        diagnostics=False,
    )
    context = Context(
        streams=Streams(seed=9, deterministic=True),
        tracker=NullRun(),
        device=torch.device("cpu"),
        folder=folder,
        progress=lambda **_: time.sleep(0.01),  # so that there is time to be killed in
    )
    budget = Budget(epsilon=None, noise_multiplier=1.0, delta=1e-5)
    release, guarantee = DPSGD(settings=settings).fit(model, splits, budget, context)
    found = {
        "weights": dict(release.weights),
        "published": release.published,
        "epsilon": guarantee.epsilon(),
        "steps": guarantee.plan.steps,
    }
    torch.save(found, out)


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have PyTorch loaded already."""
    context = loaded()

    def start(folder, out, seconds):
        process = context.Process(target=train_alone, args=(folder, out, seconds))
        process.start()
        return process

    return start


def finish(process):
    process.join(60)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, processes):
    """What the training ends with when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert finish(processes(folder, folder / "found.pt", 0.0)) == 0
    return torch.load(folder / "found.pt")


@pytest.mark.parametrize(("seconds", "kills"), [(0.0, (1, 30)), (0.2, (20,))])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    tmp_path, processes, uninterrupted, seconds, kills
):
    moments = random.Random(7)
    out = tmp_path / "found.pt"
    for earliest in kills:
        process = processes(tmp_path, out, seconds)
        target = earliest + moments.randrange(15)
        deadline = time.monotonic() + 60
        while checkpoint.paid(tmp_path) < target:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.01 * moments.random())
        os.kill(process.pid, signal.SIGKILL)
        assert finish(process) == -signal.SIGKILL
        assert not out.exists()
        assert target <= checkpoint.paid(tmp_path) <= 60
        assert checkpoint.load(tmp_path)["step"] <= checkpoint.paid(tmp_path)
    assert finish(processes(tmp_path, out, seconds)) == 0
    found = torch.load(out)

    for name, value in uninterrupted["weights"].items():
        assert torch.equal(found["weights"][name], value)
    assert found["published"] == uninterrupted["published"]
    assert found["epsilon"] == uninterrupted["epsilon"]
    assert found["steps"] == checkpoint.paid(tmp_path) == checkpoint.load(tmp_path)["step"] == 60
    checkpoint.remove(tmp_path)
    assert not [path for path in tmp_path.iterdir() if checkpoint.CHECKPOINT in path.name]
