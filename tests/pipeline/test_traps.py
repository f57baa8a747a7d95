"""The traps of DP-SGD implementations, one test each, that fails when the trap is there again.

Numbered as in the design: each was seen in an engine in wide use.
"""

import copy
import json
import math
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from support import order
from torch import nn

from dptrain.assembly.components import assemble
from dptrain.config import defaults, parse
from dptrain.contracts import Budget, ConfigError, Records, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.preconditioned import Preconditioned
from dptrain.pipeline.summary import constants
from dptrain.privacy import dpsgd
from dptrain.privacy.accountant import privacy_loss
from dptrain.privacy.dpsgd import ENGINES, DPSGDEngine
from dptrain.privacy.guarantee import DPGuarantee, NoGuarantee
from dptrain.privacy.layers import check_layers
from dptrain.privacy.noise.cost import MOST_DRAWS, stated_epsilon
from dptrain.privacy.noise.keys import KeyChain
from dptrain.privacy.plan import Rates
from dptrain.privacy.sampling import PoissonSampler
from dptrain.privacy.written import to_json
from dptrain.sweep.state import spent_together
from dptrain.training import checkpoint

pytestmark = pytest.mark.run


@pytest.fixture
def values():
    """A configuration without fault, as a plain dictionary."""
    target = {"_target_": "somewhere.Something"}
    return {
        **defaults(),
        **dict.fromkeys(("data", "model", "optimizer", "mechanism", "tracking"), target),
    }


def refused(values):
    with pytest.raises(ConfigError) as error:
        parse(values)
    return str(error.value)


def engine_of(model, plan, kind="hooks"):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = partial(nn.functional.cross_entropy, reduction="none")
    return DPSGDEngine(kind, model, optimizer, plan, loss=loss, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def spied(monkeypatch):
    """What the sampler draws, and how often the engine updates."""
    drawn, updates = [], []
    draw, update = PoissonSampler.draw, dpsgd.DPSGDEngine.update
    monkeypatch.setattr(PoissonSampler, "draw", lambda self: drawn.append(draw(self)) or drawn[-1])
    monkeypatch.setattr(dpsgd.DPSGDEngine, "update", lambda self: updates.append(update(self)))
    return drawn, updates


@pytest.fixture
def tiny():
    """A model whose steps cost next to nothing, and records for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(1, 2))


def tiny_splits(splits, count):
    records = Records(torch.ones(count, 1, 1, 1), torch.arange(count) % 2)
    return replace(splits, train=records, holdout=records, test=records, classes=("a", "b"))


def test_trap_1_rate_and_steps_are_those_that_were_asked_for(
    tiny, splits, settings_of, context_of, budget, spied
):
    drawn, updates = spied
    settings = settings_of(rates={"sample_rate": 0.3, "expected_batch_size": 300, "steps": 93})
    _, guarantee = DPSGD(settings=settings).fit(tiny, tiny_splits(splits, 1000), budget, context_of())
    assert (guarantee.plan.sample_rate, guarantee.plan.steps) == (0.3, 93)
    assert len(drawn) == len(updates) == 93
    share = sum(map(len, drawn)) / 93_000
    assert share == pytest.approx(0.3, abs=4 * (0.21 / 93_000) ** 0.5)


def test_trap_1_93_batches_are_93_steps(tiny, splits, settings_of, context_of, budget, spied):
    settings = replace(settings_of(), rates=Rates(expected_batch_size=10, epochs=1))
    _, guarantee = DPSGD(settings=settings).fit(tiny, tiny_splits(splits, 930), budget, context_of())
    assert guarantee.plan.steps == len(spied[0]) == len(spied[1]) == 93


def test_trap_2_shuffled_batches_are_not_reported_as_poisson(mlp, splits, settings_of, context_of, budget):
    def epsilon(sampling):
        settings = settings_of(rates={"sampling": sampling, "expected_batch_size": 6, "steps": 20})
        _, guarantee = DPSGD(settings=settings).fit(copy.deepcopy(mlp), splits, budget, context_of())
        statement = guarantee.statement()
        assert statement.sampling_run == statement.sampling_assumed == sampling
        return statement.epsilon, guarantee.plan

    amplified, _ = epsilon("poisson")
    shuffled, plan = epsilon("shuffle")
    # Twenty batches of six are two passes over sixty records: two Gaussian mechanisms.
    whole = replace(plan, sampling="poisson", sample_rate=1.0, steps=2)
    assert shuffled == pytest.approx(privacy_loss(whole).get_epsilon_for_delta(1e-5))
    assert shuffled > 1.3 * amplified


@pytest.mark.parametrize("kind", ENGINES)
def test_trap_3_the_divisor_does_not_tell_how_many_records_there_are(models, splits, make_plan_of, kind):
    def step(records, expected):
        model = models["mlp"]()
        start = [p.detach().clone() for p in model.parameters()]
        engine = engine_of(model, make_plan_of(noise_multiplier=0.0, expected_batch_size=expected), kind)
        engine.accumulate(splits.train.inputs[records], splits.train.labels[records])
        engine.update()
        return torch.cat([(a - b).flatten() for a, b in zip(start, model.parameters(), strict=True)])

    torch.testing.assert_close(step([0, 1], 10) + step([2], 10), step([0, 1, 2], 10), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(step([0, 1], 20), step([0, 1], 10) / 2, rtol=1e-3, atol=1e-6)


def test_trap_3_one_record_more_changes_no_declared_constant(splits, settings_of, budget):
    mechanism = DPSGD(settings=settings_of(rates={"sample_rate": 0.2, "expected_batch_size": 12}))
    fewer = replace(splits, train=splits.train.take(torch.arange(59)))
    assert replace(mechanism.plan(fewer, budget), units=60) == mechanism.plan(splits, budget)


@pytest.mark.parametrize("kind", [DPSGD, partial(DPSGD, noise="banded", bands=2), Preconditioned])
def test_trap_3_constants_that_follow_from_the_number_of_records_are_named(splits, settings_of, budget, kind):
    config = parse(
        order("training.epochs=5", "training.expected_batch_size=12", "training.steps=null").config
    )
    mechanism = kind(settings=settings_of(rates={"expected_batch_size": 12, "epochs": 5}))
    found = constants(config, splits, mechanism.plan(splits, budget), units_public=True)
    assert {"sample_rate", "steps", "noise_multiplier"} <= set(found.from_units)
    hidden = constants(config, splits, mechanism.plan(splits, budget), units_public=False)
    assert hidden.from_units == ()


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_trap_4_one_poisoned_record_changes_nothing(models, splits, make_plan_of, kind, poison):
    def weights(poisoned):
        model = models["cnn"]()
        engine = engine_of(model, make_plan_of(), kind)
        inputs, labels = splits.train.inputs[:8], splits.train.labels[:8]
        if poisoned:
            inputs = torch.cat([inputs, torch.full((1, 1, 8, 8), poison)])
            labels = torch.cat([labels, labels[:1]])
        engine.accumulate(inputs, labels)
        engine.update()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(weights(poisoned=True), weights(poisoned=False), rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_5_empty_batches_take_their_noisy_step(mlp, splits, settings_of, context_of, budget, engine):
    before = copy.deepcopy(mlp.state_dict())
    settings = settings_of(rates={"sample_rate": 1e-9, "expected_batch_size": 1, "steps": 3})
    release, guarantee = DPSGD(settings=settings, engine=engine).fit(mlp, splits, budget, context_of())
    for name, value in release.weights.items():
        assert (value != before[name]).float().mean() > 0.99
    assert guarantee.plan.steps == 3


@pytest.mark.parametrize("accountant", ["gdp", "rdp", "prv"])
def test_trap_6_no_accountant_but_the_authority(values, accountant):
    message = refused({**values, "privacy": {"accountant": accountant}})
    assert f"privacy.accountant={accountant}" in message
    assert "use pld" in message
    if accountant == "gdp":
        assert "understates epsilon (1.62 for a true 1.83)" in message


def test_trap_6_the_reported_epsilon_is_not_the_understated_one(make_plan_of, budget):
    assert DPGuarantee(plan=make_plan_of(), budget=budget).epsilon() == pytest.approx(1.83, abs=0.005)


def test_trap_7_noise_and_sampling_do_not_follow_from_the_seed():
    one, other = Streams(seed=5), Streams(seed=5)

    def draws(generator):
        return torch.rand(8, generator=generator).tolist()

    for purpose in ("noise", "sampling", "masks"):
        assert len({one.secret(purpose), other.secret(purpose), one.secret(purpose)}) == 3
    assert draws(one.seeded("model")) == draws(other.seeded("model")) != draws(one.seeded("attack"))
    tests = Streams(seed=5, deterministic=True)
    assert tests.secret("noise") == replace(tests).secret("noise") != tests.secret("sampling")


def test_trap_7_two_runs_of_one_seed_differ(models, splits, settings_of, context_of, budget, flat):
    def run(deterministic):
        context = context_of(streams=Streams(seed=5, deterministic=deterministic))
        release, guarantee = DPSGD(settings=settings_of()).fit(models["mlp"](), splits, budget, context)
        return flat(release.weights), guarantee.statement()

    (first, statement), (second, _) = run(False), run(False)
    assert not torch.equal(first, second)
    assert (statement.void, statement.randomness.secret) == (False, True)


def test_trap_7_a_deterministic_run_is_void(mlp, splits, settings_of, context_of, budget):
    _, guarantee = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context_of())
    statement = guarantee.statement()
    assert statement.void is True
    assert statement.sentence.startswith("VOID: sampling and noise were drawn from the public seed")
    assert statement.randomness.secret is False


def test_trap_7_no_key_of_the_secret_streams_is_told(
    mlp, splits, settings_of, context_of, budget, recorder, folder, monkeypatch
):
    """Nor kept: of all keys, a checkpoint holds those of the steps to come."""
    used = []
    draw = KeyChain.next
    monkeypatch.setattr(KeyChain, "next", lambda self: used.append(self._key) or draw(self))
    context = context_of(streams=Streams(seed=5), tracker=recorder, folder=folder)
    _, guarantee = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context)
    told = json.dumps(asdict(guarantee.statement()), default=str)
    kept = (folder / checkpoint.CHECKPOINT).read_bytes()
    assert len(set(used)) >= 3 * guarantee.plan.steps  # of noise, samples and masks
    for key in used:
        assert key.hex() not in told
        assert key.hex().encode() not in kept
        assert key not in kept


def test_trap_8_nothing_about_the_training_records_is_logged_unasked(
    models, splits, settings_of, context_of, budget, recorder
):
    def run(diagnostics):
        recorder.metrics.clear()
        settings = settings_of(diagnostics=diagnostics)
        context = context_of(tracker=recorder)
        _, guarantee = DPSGD(settings=settings).fit(models["mlp"](), splits, budget, context)
        said = " ".join(guarantee.statement().outside_guarantee)
        return {name for name, _, _ in recorder.metrics}, said

    names, said = run(diagnostics=False)
    assert names == {"holdout/accuracy", "holdout/loss"}
    assert "training.diagnostics" not in said
    names, said = run(diagnostics=True)
    assert names == {"holdout/accuracy", "holdout/loss", "private_diagnostics/loss"}
    assert "training.diagnostics=true: the loss on training records was logged" in said


def test_trap_8_diagnostics_are_off_by_default(values):
    assert parse(values).training.diagnostics is False


def test_trap_9_a_step_is_paid_for_before_it_is_taken_and_never_paid_twice(
    mlp, models, splits, settings_of, context_of, budget, folder, monkeypatch, flat
):
    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    context = context_of(folder=folder)
    mechanism = DPSGD(settings=settings_of())
    drawn = []
    draw = PoissonSampler.draw

    def draw_three(self):
        if len(drawn) == 3:
            raise Stop
        drawn.append(draw(self))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(PoissonSampler, "draw", draw_three)
        with pytest.raises(Stop):
            mechanism.fit(mlp, splits, budget, context)
    assert checkpoint.paid(folder) == 4
    assert checkpoint.load(folder)["step"] == 3
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd.DPSGDEngine, "update", stop)
        with pytest.raises(Stop):
            mechanism.fit(models["mlp"](), splits, budget, context)
    assert checkpoint.paid(folder) == 4
    assert checkpoint.load(folder)["step"] == 3
    resumed, guarantee = mechanism.fit(models["mlp"](), splits, budget, context)
    whole, promised = mechanism.fit(models["mlp"](), splits, budget, context_of())
    assert torch.equal(flat(resumed.weights), flat(whole.weights))
    assert guarantee.epsilon() == promised.epsilon()
    assert checkpoint.paid(folder) == guarantee.plan.steps


def test_trap_10_batch_norm_is_named_and_its_cure_too():
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)))
    with pytest.raises(ConfigError, match=r"`stem\.1` \(BatchNorm2d\).*GroupNorm\(1, 8\)"):
        check_layers(model, replace_batch_norm=False)
    assert isinstance(check_layers(model, replace_batch_norm=True).stem[1], nn.GroupNorm)


FREE = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)


def guarantee_of(plan, **others):
    return DPGuarantee(plan=plan, budget=FREE, **others)


def write_report(folder, statement):
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"guarantee": to_json(statement)}))


def test_trap_11_a_sweep_states_what_its_runs_spend_together(tmp_path, make_plan_of):
    others = [
        make_plan_of(noise_multiplier=1.2, steps=300),
        make_plan_of(sampling="shuffle", noise_multiplier=9.0),
    ]
    for number, plan in enumerate(others):
        write_report(tmp_path / str(number), guarantee_of(plan).statement())
    write_report(tmp_path / "twin", NoGuarantee(budget=FREE).statement())
    write_report(tmp_path / "void", guarantee_of(plan, void="a test").statement())
    last = make_plan_of()
    found = spent_together(tmp_path / "last", last, 1e-5, draws=1000, unit="record")
    loss = privacy_loss(last)
    for plan in others:
        loss = loss.compose(privacy_loss(plan))
    ideal = loss.get_epsilon_for_delta(1e-5)
    with_noise = stated_epsilon(loss, 2 * MOST_DRAWS + 1000, delta=1e-5)  # two do not say how many they drew
    assert ideal < with_noise < ideal + 2e-3
    assert found["epsilon_together"] == pytest.approx(with_noise, rel=1e-9)
    assert (found["runs"], found["not_private"]) == (5, 2)
    assert "void, and not counted: 2. Whoever sees those has no guarantee" in found["sentence"]
    alone = [privacy_loss(plan).get_epsilon_for_delta(1e-5) for plan in (last, *others)]
    assert max(alone) < found["epsilon_together"] < sum(alone)


def test_trap_11_equal_runs_of_a_sweep_are_as_many_times_the_steps(tmp_path, make_plan_of):
    plan = make_plan_of(steps=200)
    for number in range(4):
        write_report(tmp_path / str(number), guarantee_of(plan).statement())
    expected = privacy_loss(plan, 1000).get_epsilon_for_delta(1e-5)
    found = spent_together(tmp_path / "last", plan, 1e-5, draws=1000, unit="record")
    assert found["epsilon_together"] == pytest.approx(expected, rel=1e-3)


def test_trap_11_every_guarantee_warns_of_choosing_by_results(mlp, splits, settings_of, context_of, budget):
    _, guarantee = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context_of())
    assert any("Choosing among runs" in said for said in guarantee.statement().outside_guarantee)


@pytest.mark.parametrize("sampling", ["weighted", "oversample", "balanced"])
def test_trap_12_resampling_is_refused_with_the_reason(values, sampling):
    message = refused({**values, "training": {**values["training"], "sampling": sampling}})
    assert f"training.sampling={sampling} would draw records at other rates than the plan" in message
    assert "use poisson" in message


def test_a_configuration_without_fault_is_accepted(values):
    assert parse(values).training.sampling == "poisson"
    with pytest.raises(ConfigError, match="somewhere"):
        assemble(parse(values))


def test_trap_7_a_secret_stream_has_more_entropy_than_a_seed_can_carry() -> None:
    keys = {Streams(0).secret("noise") for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {32}
