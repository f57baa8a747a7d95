"""Features made once train what features made at every step train; copies of a record count as one record."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from dptrain.contracts import Canaries, ConfigError, DptrainError, Records, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.normalise import Normalise
from dptrain.models.scatter import ScatterCNN, ScatterLinear
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.runs.features import FeatureStore
from dptrain.training.augment import Augmentation
from dptrain.training.features import Features, Trained, on_features
from dptrain.training.tested import refuse_company

pytestmark = pytest.mark.run

CACHED = {"feature_cache_gib": 1.0}
UNAUDITED = partial(DPSGD, audit_sensitivity=False)  # which makes features of its own rows


def scattered(kind=ScatterLinear) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        Normalise((0.5,), (0.5,)), kind((1, 8, 8), 3, **({"pooled": 1} if kind is ScatterCNN else {}))
    )


@pytest.mark.parametrize("mechanism", [DPSGD, NonPrivate])
@pytest.mark.parametrize("kind", [ScatterLinear, ScatterCNN])
def test_both_ways_train_the_same_weights(
    mechanism, kind, splits, settings_of, context_of, budget, flat
) -> None:
    found = [
        mechanism(settings=settings_of(average_decay=0.5, **cache)).fit(
            scattered(kind), splits, budget, context_of()
        )[0]
        for cache in (CACHED, {})
    ]
    assert found[0].weights.keys() == found[1].weights.keys()
    torch.testing.assert_close(flat(found[0].weights), flat(found[1].weights), atol=1e-5, rtol=1e-4)
    assert [round(entry[2], 4) for entry in found[0].published] == [
        round(entry[2], 4) for entry in found[1].published
    ]


def test_the_whole_model_is_released_and_takes_images(splits, settings_of, context_of, budget) -> None:
    release, _ = DPSGD(settings=settings_of(**CACHED)).fit(scattered(), splits, budget, context_of())
    built = release.build()
    inputs = splits.test.inputs.clone().requires_grad_()
    built(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    assert not torch.equal(release.weights["1.head.1.weight"], scattered()[1].head[1].weight)


def test_features_are_made_once_where_they_fit(splits, settings_of, context_of, budget) -> None:
    def calls(settings) -> int:
        seen = []
        model = scattered()
        features = model[1].features
        features.register_forward_hook(lambda module, *_: seen.append(module is features))
        UNAUDITED(settings=settings).fit(model, splits, budget, context_of())
        return sum(seen)  # and not what copies make of rows that are no record

    assert calls(settings_of(**CACHED)) == 5  # sizes, thrice; training records; held-out records
    assert calls(settings_of()) >= 8  # at every step


def test_too_many_features_are_made_anew(splits, settings_of, context_of) -> None:
    model = scattered()
    assert Trained.of(model, splits, settings_of(feature_cache_gib=1e-6), context_of()).part is model
    assert Trained.of(model, splits, settings_of(**CACHED), context_of()).part is model[1].head
    moving = settings_of(augmentation=Augmentation(copies=2), **CACHED)
    assert Trained.of(model, splits, moving, context_of()).part is model


def made(model: nn.Module) -> list[int]:
    """How many records this model's frozen part (no copy of it) makes features of; blank ones apart."""
    seen: list[int] = []
    features = model[1].features

    def count(module: nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        met = int((inputs[0].flatten(1).std(1) > 0).sum())
        if module is features and met:
            seen.append(met)

    features.register_forward_hook(count)
    return seen


def test_another_training_makes_features_of_other_records_alone(
    splits, settings_of, context_of, budget, flat
) -> None:
    settings, known = settings_of(**CACHED), splits.train.take(torch.arange(45))
    others = replace(splits, train=known.and_more(splits.test.take(torch.arange(6))))
    alone, _ = NonPrivate(settings=settings).fit(scattered(), others, budget, context_of())
    context = context_of(features=FeatureStore())
    model, other = scattered(), scattered()
    counted, again = made(model), made(other)
    UNAUDITED(settings=settings).fit(model, splits, budget, context)
    shared, _ = NonPrivate(settings=settings).fit(other, others, budget, context)
    assert counted == [60, 40]
    assert again == [6], "known records and held-out ones were met before"
    torch.testing.assert_close(flat(shared.weights), flat(alone.weights), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changed", ["weights", "dtype", "memory"])
def test_features_are_not_shared_where_they_differ_or_do_not_fit(
    changed, splits, settings_of, context_of, budget
) -> None:
    kept = FeatureStore()
    DPSGD(settings=settings_of(**CACHED)).fit(scattered(), splits, budget, context_of(features=kept))
    met = len(kept)
    assert met == 100
    model = scattered()
    one = math.prod(model[1].features(torch.zeros(1, 1, 8, 8)).shape) * 4
    if changed == "weights":
        next(iter(model[1].features.buffers())).mul_(1.5)
    gib = 1.5 * one * 100 / 2**30 if changed == "memory" else 1.0
    context = context_of(features=kept, dtype=torch.float64 if changed == "dtype" else torch.float32)
    counted = made(model)
    UNAUDITED(settings=settings_of(feature_cache_gib=gib)).fit(model, splits, budget, context)
    assert counted == [60, 40]
    assert len(kept) == (met if changed == "memory" else 2 * met)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_head_says_of_kept_features_is_what_the_whole_model_says(
    dtype, splits, settings_of, context_of, budget
) -> None:
    context, model = context_of(features=FeatureStore(), dtype=dtype), scattered()
    release, _ = NonPrivate(settings=settings_of(**CACHED)).fit(model, splits, budget, context)
    before = len(context.features)
    head, seen = on_features(release, splits, context, gib=1.0)
    assert seen.test.inputs.shape != splits.test.inputs.shape
    whole = release.predict(splits.test.inputs)
    torch.testing.assert_close(head.predict(seen.test.inputs), whole, atol=1e-5, rtol=1e-4)
    on_features(release, replace(splits, test=splits.train), context, gib=1.0)
    assert len(context.features) == before + len(splits.test), "those of training are found again"


def test_a_head_goes_on_with_its_own_features_only(splits, settings_of, context_of, budget, folder) -> None:
    mechanism = DPSGD(settings=settings_of(**CACHED))
    mechanism.fit(scattered(), splits, budget, context_of(folder=folder))
    mechanism.fit(scattered(), splits, budget, context_of(folder=folder))  # from its last checkpoint
    other = scattered()
    next(iter(other[1].features.buffers())).mul_(1 + 1e-6)  # as another machine may find them
    with pytest.raises(DptrainError, match=r"frozen part of the model is not the one .* start a new run"):
        mechanism.fit(other, splits, budget, context_of(folder=folder))


class Onlooker:
    """Remembers what an adversary sees of the second slot, and what they compute of its record."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.views, self.noises, self.own, self.lengths = [], [], [], []

    def observe(self, step) -> None:
        self.views.append(step.view(1).clone())
        self.noises.append(step.noise.clone())
        self.own.append(step.contribution(self.records.inputs, self.records.labels)[0])
        self.lengths.append(step.lengths(Canaries(coordinates=torch.tensor([0, 7]), norm=10.0)))

    def state_dict(self):
        return {}

    def load_state_dict(self, state) -> None:
        pass


@pytest.mark.parametrize("cache", [CACHED, {}])
def test_observers_see_what_the_engine_added(cache, splits, settings_of, context_of, budget) -> None:
    onlooker = Onlooker(splits.train.take(torch.tensor([9])))
    context = context_of(streams=Streams(seed=11, deterministic=True), planted=(4, 9), observers=(onlooker,))
    DPSGD(settings=settings_of(**cache)).fit(scattered(), splits, budget, context)
    seen = 0
    for view, noise, own in zip(onlooker.views, onlooker.noises, onlooker.own, strict=True):
        added = view - noise
        if added.abs().sum() > 0:
            seen += 1
            torch.testing.assert_close(added, own, atol=1e-5, rtol=1e-3)
    assert seen > 0


def test_copies_stand_side_by_side_and_are_windows_of_the_record(rng) -> None:
    images = torch.rand(3, 2, 6, 6, generator=rng)
    torch.manual_seed(0)
    copies = Augmentation(copies=40, shift=2)(images).unflatten(0, (3, 40))
    padded = nn.functional.pad(images, [2] * 4, mode="reflect")
    windows = padded.unfold(2, 6, 1).unfold(3, 6, 1).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    for record in range(3):
        same = (copies[record][:, None] == windows[record][None]).flatten(2).all(2)
        assert same.any(1).all()
        assert same.any(0).sum() > 12  # of 25 windows
        others = (copies[record][:, None] == windows[record - 1][None]).flatten(2).all(2)
        assert not others.any()


def test_mirrored_copies(rng) -> None:
    images = torch.rand(1, 1, 4, 4, generator=rng)
    torch.manual_seed(0)
    copies = Augmentation(copies=64, flip=True)(images)
    mirrored = (copies == images.flip(-1)).flatten(1).all(1)
    assert ((copies == images).flatten(1).all(1) ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_tables_cannot_be_moved() -> None:
    with pytest.raises(
        ConfigError, match=r"training\.augmentations=2 moves images .* shape \(5,\); set it to 0"
    ):
        Augmentation(copies=2)(torch.zeros(3, 5))


@pytest.mark.parametrize("mechanism", [DPSGD, NonPrivate])
def test_copies_that_do_not_move_change_nothing(
    mechanism, models, splits, settings_of, context_of, budget, flat
):
    found = [
        mechanism(settings=settings_of(augmentation=augmentation)).fit(
            models["cnn"](), splits, budget, context_of()
        )[0]
        for augmentation in (None, Augmentation(copies=3))
    ]
    torch.testing.assert_close(flat(found[0].weights), flat(found[1].weights), atol=1e-5, rtol=1e-4)


def test_a_record_of_many_copies_is_bounded_as_one(cnn, splits, settings_of, context_of, budget) -> None:
    """What the engine adds of a planted record, read off the sum, is no longer than the clipping norm."""
    onlooker = Onlooker(splits.train.take(torch.tensor([9])))
    context = context_of(streams=Streams(seed=11, deterministic=True), planted=(4, 9), observers=(onlooker,))
    settings = settings_of(augmentation=Augmentation(copies=4, shift=2), rates={"steps": 30})
    DPSGD(settings=settings, max_grad_norm=0.05).fit(cnn, splits, budget, context)
    added = torch.stack(onlooker.views) - torch.stack(onlooker.noises)
    lengths = added.norm(dim=1)
    assert (lengths > 0.04).sum() > 2
    assert lengths.max() < 0.0501
    still = torch.stack(onlooker.own)
    moved = [
        math.acos(min(1.0, float(nn.functional.cosine_similarity(a, b, dim=0))))
        for a, b in zip(added, still, strict=True)
        if a.norm() > 0.04
    ]
    assert 0.001 < max(moved) < 1.6  # copies are random, and of the same record


def test_planted_records_alone_change_no_weights(
    models, splits, settings_of, context_of, budget, flat
) -> None:
    settings = settings_of(augmentation=Augmentation(copies=2, shift=1))
    found = []
    for observers in ((), (Onlooker(splits.train.take(torch.tensor([9]))),)):
        torch.manual_seed(3)
        context = context_of(planted=(4, 9), observers=observers)
        found.append(DPSGD(settings=settings).fit(models["cnn"](), splits, budget, context)[0])
    torch.testing.assert_close(flat(found[0].weights), flat(found[1].weights), atol=1e-5, rtol=1e-4)


def test_a_run_that_goes_on_repeats_its_copies(
    models, splits, settings_of, context_of, budget, flat, folder, monkeypatch
):
    settings = settings_of(augmentation=Augmentation(copies=2, shift=2, flip=True))
    torch.manual_seed(8)
    whole, _ = DPSGD(settings=settings).fit(models["cnn"](), splits, budget, context_of())
    torch.manual_seed(8)
    update, taken = DPSGDEngine.update, []

    def crash(self):
        taken.append(1)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return update(self)

    mechanism = DPSGD(settings=settings, engine="hooks")
    with monkeypatch.context() as patch:
        patch.setattr(DPSGDEngine, "update", crash)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(models["cnn"](), splits, budget, context_of(folder=folder))
    torch.manual_seed(99)
    resumed, _ = mechanism.fit(models["cnn"](), splits, budget, context_of(folder=folder))
    torch.testing.assert_close(flat(resumed.weights), flat(whole.weights), atol=1e-5, rtol=1e-4)


class RoundedByCompany(nn.Module):
    """Rounds the rows that do not fill up a block otherwise, as libraries' products of matrices do."""

    def forward(self, inputs):
        rows = inputs.flatten(1).double()
        rest = torch.arange(len(rows)) >= len(rows) // 16 * 16
        return torch.where(rest[:, None], rows * (1 + 1e-6), rows).float()


@pytest.mark.parametrize("count", [1, 16, 41, 60])
def test_features_of_a_record_are_the_same_in_whatever_company(count, splits, context_of) -> None:
    make = Features(RoundedByCompany(), context_of())
    records = splits.train.take(torch.arange(count))
    alone = torch.cat([make.of(records.take(torch.tensor([place])), None).inputs for place in range(count)])
    assert torch.equal(make.of(records, None).inputs, alone)
    assert count % 16 == 0 or not torch.equal(make(records.inputs), alone), "these features can be told"


def test_scattering_of_a_record_is_the_same_in_whatever_company(splits, context_of) -> None:
    make = Features(ScatterLinear((1, 8, 8), 3, components=20).features, context_of())
    inputs = splits.train.inputs
    every = make.of_each(inputs)
    for first, count in ((0, 1), (3, 64), (5, 70), (1, len(inputs) - 1)):
        assert torch.equal(make.of_each(inputs[first : first + count]), every[first : first + count])


class RoundedByPlace(nn.Module):
    """Rounds some rows otherwise, by where in the batch they stand."""

    def __init__(self, odd):
        super().__init__()
        self.odd = odd

    def forward(self, inputs):
        rows = inputs.flatten(1).double()
        return (rows * (1 + 1e-6 * self.odd(torch.arange(len(rows)))[:, None])).float()


@pytest.mark.parametrize(
    "odd", [lambda places: places % 3, lambda places: places == 200, lambda places: places > 250]
)
def test_features_that_are_rounded_by_their_place_are_refused(odd, splits, context_of) -> None:
    model = FrozenFeatures(RoundedByPlace(odd), nn.Linear(64, 3))
    with pytest.raises(ConfigError, match="rounded otherwise beside other records"):
        refuse_company(model, splits, context_of())


class RoundedBesideFew(nn.Module):
    """Rounds all rows otherwise where few of them are anything but zero."""

    def forward(self, inputs):
        rows = inputs.flatten(1).double()
        return (rows * (1 + 1e-6 * (rows.count_nonzero() < rows.numel() / 2))).float()


def test_features_that_are_rounded_by_what_stands_beside_them_are_refused(splits, context_of) -> None:
    head = nn.Linear(64, 3)
    with pytest.raises(ConfigError, match="rounded otherwise beside other records"):
        refuse_company(FrozenFeatures(RoundedBesideFew(), head), splits, context_of())
    refuse_company(FrozenFeatures(RoundedByCompany(), head), splits, context_of())  # which full batches mend
    refuse_company(ScatterLinear((1, 8, 8), 3), splits, context_of())
    refuse_company(nn.Sequential(nn.Flatten(), head), splits, context_of())
