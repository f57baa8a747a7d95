"""Shadow models: halves of the probes, trained as told, found again, and never stale."""

from __future__ import annotations

import copy
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from dptrain.contracts import Access, Budget, Records
from dptrain.evaluation.shadows import ShadowTrainer
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.normalise import Normalise
from dptrain.models.scatter import ScatterLinear
from dptrain.runs import cache
from dptrain.runs.cache import Cache
from dptrain.runs.features import FeatureStore
from dptrain.tasks.classification import Classification
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


class Spy:
    """A mechanism that remembers what it was given to train on."""

    offers = frozenset(Access)

    def __init__(self, mechanism):
        self.mechanism = mechanism
        self.trained_on = []
        self.seconds = []

    def fit(self, model, splits, budget, context):
        self.trained_on.append(splits)
        started = time.perf_counter()
        try:
            return self.mechanism.fit(model, splits, budget, context)
        finally:
            self.seconds.append(time.perf_counter() - started)


@pytest.fixture
def trainer(splits, mlp, settings_of, context_of, tmp_path):
    @contextmanager
    def silent(_):
        yield lambda **_: None

    settings = settings_of(rates={"steps": 3})
    probes, known = splits.train.take(torch.arange(20)), splits.train.take(torch.arange(20, 60))
    return ShadowTrainer(
        mechanism=Spy(DPSGD(settings=settings)),
        plain=Spy(NonPrivate(settings=settings)),
        model=mlp,
        known=replace(splits, train=known),
        probes=probes,
        budget=Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0),
        context=context_of(),
        recipe={
            "training": {"steps": 3},
            "privacy": {"epsilon": 3},
            "model": {"_target_": "torch.nn.Linear"},
        },
        cache=Cache(tmp_path / "cache"),
        show=silent,
    )


def test_pairs_share_the_probes_and_train_on_the_rest_besides(trainer):
    found = trainer.train(3, private=False)
    assert len(found) == 4
    for one, other in (found[:2], found[2:]):
        assert torch.equal(one.members, ~other.members)
        assert int(one.members.sum()) == 10
    assert not torch.equal(found[0].members, found[2].members)
    for shadow, splits in zip(found, trainer.plain.trained_on, strict=True):
        torch.testing.assert_close(splits.train.inputs[:40], trainer.known.train.inputs)
        torch.testing.assert_close(splits.train.inputs[40:], trainer.probes.inputs[shadow.members])
    assert not trainer.mechanism.trained_on


def test_a_shadow_answers_by_the_task_that_it_was_trained_for(trainer):
    task = Classification(classes=2)
    known = replace(trainer.known, task=task)
    for _ in range(2):  # trained, and kept
        for shadow in replace(trainer, known=known).train(2, private=False):
            assert shadow.release.task is task


def test_private_shadows_are_trained_by_the_targets_mechanism(trainer):
    trainer.train(2, private=True)
    assert len(trainer.mechanism.trained_on) == 2
    assert not trainer.plain.trained_on


def test_shadows_start_where_the_target_started_and_draw_for_themselves(trainer):
    seen = []

    class Watching(Spy):
        def fit(self, model, splits, budget, context):
            seen.append(copy.deepcopy(model.state_dict()))
            return super().fit(model, splits, budget, context)

    first, second = replace(trainer, plain=Watching(trainer.plain)).train(2, private=False)
    for begun in seen:
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(begun[name], value)
    name = next(iter(first.release.weights))
    assert not torch.equal(first.release.weights[name], second.release.weights[name])


def test_without_probes_they_are_trained_on_what_is_known_alone(trainer):
    found = replace(trainer, probes=trainer.probes.take(torch.arange(0))).train(2, private=False)
    for shadow, splits in zip(found, trainer.plain.trained_on, strict=True):
        assert len(shadow.members) == 0
        assert torch.equal(splits.train.inputs, trainer.records.inputs)


def test_what_was_trained_is_found_again_and_kept_from_other_eyes(trainer):
    before = trainer.train(2, private=False)
    again = trainer.train(4, private=False)
    assert len(trainer.plain.trained_on) == 4
    for old, new in zip(before, again, strict=False):
        for name, value in old.release.weights.items():
            torch.testing.assert_close(new.release.weights[name], value, rtol=0, atol=0)
    assert {path.stat().st_mode & 0o777 for path in trainer.cache.folder.glob("*.pt")} == {0o600}


def test_shadows_take_the_features_that_the_target_s_training_made(trainer, splits, settings_of):
    model = nn.Sequential(Normalise((0.5,), (0.5,)), ScatterLinear((1, 8, 8), 3))
    made = []
    everyone = torch.cat([splits.train.inputs, splits.holdout.inputs, splits.test.inputs])
    records = {row.numpy().tobytes() for row in model[0](everyone)}

    def count(_: nn.Module, inputs: tuple[torch.Tensor], __: torch.Tensor) -> None:
        """Records alone: what is tried out of a model makes features of other rows."""
        made.append(sum(row.numpy().tobytes() in records for row in inputs[0].detach()))

    model[1].features.register_forward_hook(count)
    settings = settings_of(rates={"steps": 3}, feature_cache_gib=1.0)
    context = replace(trainer.context, features=FeatureStore())
    target = replace(splits, train=splits.train.take(torch.arange(10, 60)))  # half of the probes among them
    DPSGD(settings=settings).fit(copy.deepcopy(model), target, trainer.budget, context)
    assert sum(made) == 50 + len(splits.holdout)
    plain = NonPrivate(settings=settings)
    found = replace(trainer, model=model, plain=plain, context=context).train(4, private=False)
    assert sum(made) == 60 + len(splits.holdout), "those of the other probes, once"
    alone = replace(trainer, model=model, plain=plain, cache=Cache(trainer.cache.folder / "alone"))
    for one, other in zip(found, alone.train(4, private=False), strict=True):
        for name, value in one.release.weights.items():
            torch.testing.assert_close(value, other.release.weights[name], atol=1e-5, rtol=1e-4)


def test_a_frozen_part_is_the_same_in_every_shadow_and_its_features_are_kept_once(trainer, settings_of):
    model = FrozenFeatures(nn.Sequential(nn.Flatten(), nn.Linear(64, 12)), nn.Linear(12, 3))
    settings = settings_of(rates={"steps": 3}, feature_cache_gib=1.0)
    context = replace(trainer.context, features=FeatureStore())
    plain = NonPrivate(settings=settings)
    found = replace(trainer, model=model, plain=plain, context=context).train(4, private=False)
    for shadow in found:
        assert torch.equal(shadow.release.weights["features.1.weight"], model.features[1].weight)
        assert not torch.allclose(shadow.release.weights["head.weight"], model.head.weight, atol=1e-3)
    known = trainer.known
    assert len(context.features) == len(known.train) + len(trainer.probes) + len(known.holdout)


def changed_probe(trainer):
    inputs = trainer.probes.inputs.clone()
    inputs[3, 0, 0, 0] += 1e-3
    return replace(trainer, probes=Records(inputs, trainer.probes.labels))


def changed_record(trainer):
    labels = trainer.known.train.labels.clone()
    labels[5] = (labels[5] + 1) % 3
    return replace(trainer, known=replace(trainer.known, train=Records(trainer.known.train.inputs, labels)))


@pytest.mark.parametrize(
    "change",
    [
        changed_probe,
        changed_record,
        lambda trainer: replace(trainer, recipe={**trainer.recipe, "training": {"steps": 4}}),
        lambda trainer: replace(
            trainer, context=replace(trainer.context, streams=replace(trainer.context.streams, seed=8))
        ),
    ],
)
def test_a_change_of_anything_that_made_them_trains_anew(trainer, change):
    trainer.train(2, private=False)
    other = change(trainer)
    other.train(2, private=False)
    assert len(trainer.plain.trained_on) == 4


def test_a_change_of_the_source_trains_anew(trainer, monkeypatch):
    trainer.train(2, private=False)
    monkeypatch.setattr(cache, "sources", lambda _: "another version")
    trainer.train(2, private=False)
    assert len(trainer.plain.trained_on) == 4


def test_a_users_own_part_counts_with_its_source(tmp_path, monkeypatch):
    (tmp_path / "parts_of_mine.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = cache.sources({"model": {"_target_": "parts_of_mine.Net"}})
    (tmp_path / "parts_of_mine.py").write_text("class Net:\n    width = 2\n")
    assert cache.sources({"model": {"_target_": "parts_of_mine.Net"}}) != before


@pytest.mark.parametrize(
    "known",
    [
        {"class_prior": (0.2, 0.3, 0.5)},
        {"group_ids": torch.arange(40) // 2},
    ],
)
def test_what_shapes_a_training_without_privacy_trains_anew(trainer, known):
    trainer.train(2, private=False)
    replace(trainer, known=replace(trainer.known, **known)).train(2, private=False)
    assert len(trainer.plain.trained_on) == 4


def test_the_unit_and_the_number_format_count(trainer):
    keys = {
        changed._key(torch.ones(20) > 0, 0, False)
        for changed in (
            trainer,
            replace(trainer, recipe={**trainer.recipe, "privacy": {"epsilon": 3, "unit": "patient"}}),
            replace(trainer, context=replace(trainer.context, dtype=torch.float64)),
        )
    }
    assert len(keys) == 3


def test_the_budget_has_a_say_in_private_shadows_only(trainer):
    other = replace(trainer, recipe={**trainer.recipe, "privacy": {"epsilon": 1}})
    for private, trained in ((False, 2), (True, 4)):
        trainer.train(2, private=private)
        other.train(2, private=private)
        spy = trainer.mechanism if private else trainer.plain
        assert len(spy.trained_on) == trained


def test_processes_train_the_shadows_that_one_does(trainer, tmp_path):
    alone = trainer.train(4, private=True)
    with Ranks(2, seconds=60, threads=1) as ranks:
        shared = replace(trainer, ranks=ranks, cache=Cache(tmp_path / "shared"), show=nobody)
        together = shared.train(4, private=True)
        assert len(trainer.mechanism.trained_on) == 4 + 2  # two of them by the other process
        mine = sum(trainer.mechanism.seconds[4:])
        assert shared.cache.seconds["shadow"] >= mine  # the others trained meanwhile
        assert shared.missing(4, private=True) == []
    for mine, theirs in zip(alone, together, strict=True):
        assert torch.equal(mine.members, theirs.members)
        for name, value in mine.release.weights.items():
            torch.testing.assert_close(theirs.release.weights[name], value)


@contextmanager
def nobody(_):
    yield lambda **_: None
