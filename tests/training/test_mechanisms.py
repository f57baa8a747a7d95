"""Both mechanisms through one loop: what they plan, what they release, what they promise."""

import math
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from torch import nn

from dptrain.contracts import Budget, ConfigError, DptrainError, Mechanism, Release
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy.accountant import privacy_loss
from dptrain.privacy.dpsgd import ENGINES
from dptrain.training import checkpoint

pytestmark = pytest.mark.run


def test_both_are_mechanisms(settings_of):
    for mechanism in (DPSGD(settings=settings_of()), NonPrivate(settings=settings_of())):
        assert {"prepare", "plan", "fit"} <= set(dir(mechanism))
    assert Mechanism


@pytest.mark.parametrize("engine", ENGINES)
def test_fit_does_what_plan_says_and_proves_it(mlp, splits, settings_of, context_of, engine):
    mechanism = DPSGD(settings=settings_of(), engine=engine)
    budget = Budget(epsilon=2.0, delta=1e-3)
    plan = mechanism.plan(splits, budget)
    assert (plan.units, plan.sample_rate, plan.steps, plan.expected_batch_size) == (60, 0.2, 8, 12)
    release, guarantee = mechanism.fit(mlp, splits, budget, context_of())
    assert guarantee.plan == plan
    assert 1.99 < guarantee.epsilon() <= 2.0
    assert guarantee.curve[0] == (0, 0.0)
    assert guarantee.curve[-1] == (8, pytest.approx(guarantee.epsilon()))
    assert release.build()(splits.test.inputs).shape == (20, 3)


def test_engines_train_the_same_model(models, splits, settings_of, context_of, budget, flat):
    found = [
        DPSGD(settings=settings_of(), engine=engine).fit(models["cnn"](), splits, budget, context_of())[0]
        for engine in ENGINES
    ]
    for other in found[1:]:
        torch.testing.assert_close(flat(found[0].weights), flat(other.weights), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_physical_batches_change_nothing(models, splits, settings_of, context_of, budget, flat, engine):
    found = [
        DPSGD(settings=settings_of(physical_batch_size=size), engine=engine).fit(
            models["mlp"](), splits, budget, context_of()
        )[0]
        for size in (512, 3)
    ]
    torch.testing.assert_close(flat(found[0].weights), flat(found[1].weights), rtol=0, atol=1e-5)


def test_a_poisoned_training_record_spoils_nothing(mlp, splits, settings_of, context_of, budget, flat):
    splits.train.inputs[::2] = math.nan
    release, _ = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context_of())
    assert torch.isfinite(flat(release.weights)).all()


def test_the_caller_keeps_an_untouched_architecture(mlp, splits, settings_of, context_of, budget):
    release, _ = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context_of())
    assert isinstance(release, Release)
    first = release.build()
    with torch.no_grad():
        first[1].weight.zero_()
    assert release.build()[1].weight.abs().sum() > 0


def test_averaged_weights_are_released_when_asked(models, splits, settings_of, context_of, budget, flat):
    last, averaged = (
        DPSGD(settings=settings_of(average_decay=decay)).fit(models["mlp"](), splits, budget, context_of())[0]
        for decay in (0.0, 0.9)
    )
    assert last.weights.keys() == averaged.weights.keys()
    start = flat(models["mlp"]().state_dict())
    assert (flat(averaged.weights) - start).norm() < (flat(last.weights) - start).norm()


def test_double_precision_trains_in_double(mlp, splits, settings_of, context_of, budget):
    release, _ = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context_of(dtype=torch.float64))
    assert {value.dtype for value in release.weights.values()} == {torch.float64}


def test_patients_are_the_units_where_asked(mlp, splits, settings_of, context_of):
    budget = Budget(epsilon=None, delta=1e-3, noise_multiplier=1.0, unit="patient")
    mechanism = DPSGD(settings=settings_of(rates={"expected_batch_size": 5}))
    with pytest.raises(ConfigError, match=r"privacy\.unit=patient needs group ids"):
        mechanism.plan(splits, budget)
    grouped = replace(splits, group_ids=torch.arange(60) // 3)
    assert mechanism.plan(grouped, budget).units == 20
    _, guarantee = mechanism.fit(mlp, grouped, budget, context_of())
    assert guarantee.statement().unit == "patient"
    assert guarantee.statement().sample_rate == 0.25


def test_replacement_is_accounted_and_costs_more(splits, settings_of):
    mechanism = DPSGD(settings=settings_of())
    plans = [
        mechanism.plan(splits, Budget(epsilon=2.0, delta=1e-3, adjacency=adjacency))
        for adjacency in ("add_remove", "replace_one")
    ]
    assert plans[1].noise_multiplier > 1.2 * plans[0].noise_multiplier
    assert privacy_loss(plans[1]).get_epsilon_for_delta(1e-3) == pytest.approx(2.0, rel=1e-3)


def test_batch_norm_is_refused_or_replaced(splits, settings_of, context_of, budget):
    def model():
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 3))

    for make in (DPSGD, NonPrivate):
        with pytest.raises(ConfigError, match="GroupNorm"):
            make(settings=settings_of()).fit(model(), splits, budget, context_of())
        release, _ = make(settings=settings_of(), replace_batch_norm=True).fit(
            model(), splits, budget, context_of()
        )
        assert isinstance(release.build()[1], nn.GroupNorm)


class Counting(nn.Module):
    """Remembers the records that it has seen, in a buffer, as running statistics do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(64))
        self.linear = nn.Linear(64, 3)

    def forward(self, inputs):
        if self.training:
            self.seen += inputs.detach().flatten(1).sum(0)
        return self.linear(inputs.flatten(1))


def test_a_buffer_that_gathers_records_is_never_released(splits, settings_of, context_of, budget):
    with pytest.raises(ConfigError, match="a call changes `seen` of Counting"):
        DPSGD(settings=settings_of()).fit(Counting(), splits, budget, context_of())


def test_a_buffer_is_looked_at_before_anything_that_it_shaped_is_published(
    splits, settings_of, context_of, budget, recorder
):
    context = context_of(tracker=recorder)
    with pytest.raises(ConfigError, match="buffer `seen` changed while training"):
        NonPrivate(settings=settings_of()).fit(Counting(), splits, budget, context)
    assert recorder.metrics == []


def test_another_optimizer_or_shape_than_the_checkpoint_s_is_a_sentence(
    models, splits, settings_of, context_of, budget, folder, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    mechanism = DPSGD(settings=settings_of(checkpoint_seconds=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "pay", stop)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(models["mlp"](), splits, budget, context_of(folder=folder))
    state = checkpoint.load(folder)
    assert state is not None
    name = next(iter(state["model"]))
    for key, value, said in (
        ("optimizer_class", "torch.optim.adam.Adam", "optimizer class torch.optim.adam.Adam is now"),
        ("model", {**state["model"], name: torch.zeros(3, 3)}, rf"`{name}` \(3, 3\) is now"),
    ):
        checkpoint.save({**state, key: value}, folder)
        with pytest.raises(DptrainError, match=said):
            mechanism.fit(models["mlp"](), splits, budget, context_of(folder=folder))


def test_unknown_engine_is_refused_before_anything_is_trained(settings_of):
    with pytest.raises(ConfigError, match=r"mechanism\.engine=magic"):
        DPSGD(settings=settings_of(), engine="magic")


def test_the_twin_promises_nothing_and_fits_better(models, splits, settings_of, context_of, budget):
    settings = settings_of(rates={"steps": 40})
    twin, nothing = NonPrivate(settings=settings).fit(models["mlp"](), splits, budget, context_of())
    noisy, _ = DPSGD(settings=settings).fit(
        models["mlp"](), splits, replace(budget, noise_multiplier=50.0), context_of()
    )
    assert nothing.epsilon() == math.inf
    assert NonPrivate(settings=settings).plan(splits, budget) is None

    def loss(release):
        return float(nn.functional.nll_loss(release.predict(splits.train.inputs).log(), splits.train.labels))

    assert loss(twin) < 0.2 < loss(noisy)


def test_the_twin_is_gradient_descent(models, splits, settings_of, context_of, budget, flat):
    """On full batches, step for step the sum over the constant that plain PyTorch gives."""
    settings = settings_of(
        rates={"expected_batch_size": 60, "steps": 3}, optimizer=partial(torch.optim.SGD, lr=0.1)
    )
    release, _ = NonPrivate(settings=settings).fit(models["cnn"](), splits, budget, context_of())
    model = models["cnn"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(splits.train.inputs), splits.train.labels).backward()
        optimizer.step()
    torch.testing.assert_close(flat(release.weights), flat(model.state_dict()).detach(), rtol=1e-3, atol=1e-5)


def test_frozen_weights_of_the_twin_do_not_decay(mlp, splits, settings_of, context_of, budget):
    mlp[1].requires_grad_(False)
    before = mlp[1].weight.clone()
    optimizer = partial(torch.optim.SGD, lr=0.1, weight_decay=0.5)
    release, _ = NonPrivate(settings=settings_of(optimizer=optimizer)).fit(mlp, splits, budget, context_of())
    assert torch.equal(release.weights["1.weight"], before)


def test_what_lies_outside_is_said(mlp, splits, settings_of, context_of, budget):
    _, guarantee = DPSGD(settings=settings_of()).fit(mlp, splits, budget, context_of())
    said = " ".join(guarantee.statement().outside_guarantee)
    for word in ("Holdout and test records", "Choosing among runs", "training records"):
        assert word in said
    assert asdict(guarantee.plan)["steps"] == guarantee.statement().steps == 8
