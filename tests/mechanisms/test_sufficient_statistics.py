"""Least squares from noisy moments: trained, released, stated, resumed, controlled; whom it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from once import (
    LITTLE,
    NEIGHBOURS,
    accuracy,
    counted_by_records,
    finite_though_poisoned,
    model_of,
    ratio,
    secret,
)
from support import QUICK, QUICK_ATTACKS, order
from torch import Tensor, nn

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import (
    Access,
    BrokenGuarantee,
    Budget,
    ConfigError,
    DptrainError,
    Streams,
)
from dptrain.mechanisms import sufficient_statistics
from dptrain.mechanisms.sufficient_statistics import SufficientStatistics
from dptrain.models.clipped import Clipped
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.normalise import Normalise
from dptrain.pipeline import verify
from dptrain.privacy import exact_moments
from dptrain.privacy.exact_moments import rows_of
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.written import from_json
from dptrain.report.document import read_json
from dptrain.report.statement_schema import schema
from dptrain.runs import folder as runs
from dptrain.tasks import MultiLabel
from dptrain.training import checkpoint
from dptrain.training.augment import Augmentation

pytestmark = pytest.mark.run


@pytest.fixture
def mechanism(settings_of) -> SufficientStatistics:
    return SufficientStatistics(settings=settings_of(feature_cache_gib=1.0), feature_norm=4.0)


# ---------------------------------------------------------------------- what it releases and promises


def test_it_learns_and_promises_what_its_plan_says(mechanism, splits, context_of) -> None:
    budget = Budget(epsilon=8.0, delta=1e-3)
    release, guarantee = mechanism.fit(model_of(), splits, budget, context_of())
    assert release.offers == mechanism.offers == {Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS}
    assert 7.95 < guarantee.epsilon() <= 8.0
    assert guarantee.curve == ((0, 0.0), (1, pytest.approx(guarantee.epsilon())))
    stated = guarantee.statement()
    assert stated.steps is stated.noise_multiplier is stated.sampling_run is None
    assert dict(stated.plan)["budget split"].startswith("0.05 for the smallest eigenvalue, 0.45 for second")
    assert stated.sensitivity is not None
    assert stated.sensitivity.most == pytest.approx(1.0)
    assert "Poisson" not in " ".join(stated.randomness.assumptions)
    assert stated.void_reason is not None  # a deterministic run
    assert len(release.published) == 1
    exact, _ = mechanism.fit(model_of(), splits, LITTLE, context_of())
    assert accuracy(exact, splits) > 0.9
    assert any(isinstance(each, Clipped) for each in release.build().modules())


def test_without_noise_it_is_ridge_regression(mechanism, splits, context_of, settings_of) -> None:
    """By NumPy, from features that the model itself makes."""
    control = mechanism.control(settings_of())
    release, guarantee = control.fit(model_of(), splits, Budget(epsilon=1.0, delta=1e-3), context_of())
    assert math.isinf(guarantee.epsilon())
    model = model_of()
    with torch.no_grad():
        features = model[1].features(model[0](splits.train.inputs)).double().numpy()
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.hstack([features / np.maximum(lengths, 4.0) * 0.95**0.5, np.full_like(lengths, 0.05**0.5)])
    targets = np.eye(3)[splits.train.labels.numpy()] - 1 / 3
    found = np.linalg.solve(rows.T @ rows + np.eye(65), rows.T @ targets)
    weight = release.weights["1.head.2.weight"].double().numpy()
    np.testing.assert_allclose(weight, 10 * 0.95**0.5 / 4 * found[:-1].T, atol=0.02)
    np.testing.assert_allclose(release.weights["1.head.2.bias"], 10 * 0.05**0.5 * found[-1], atol=0.02)


def test_features_that_do_not_fit_in_memory_give_the_same(mechanism, splits, context_of, settings_of) -> None:
    other = replace(mechanism, settings=settings_of(feature_cache_gib=0.0))
    one, two = (each.fit(model_of(), splits, LITTLE, context_of())[0] for each in (mechanism, other))
    torch.testing.assert_close(one.weights, two.weights, atol=1e-4, rtol=1e-4)


def test_declared_frequencies_make_classes_weigh_alike(mechanism, splits, context_of) -> None:
    budget = Budget(epsilon=8.0, delta=1e-3)
    plain, weighed = (
        mechanism.fit(model_of(), replace(splits, class_prior=prior), budget, context_of())[0].weights
        for prior in (None, (0.5, 0.3, 0.2))
    )
    moved = plain["1.head.2.bias"] - weighed["1.head.2.bias"]
    torch.testing.assert_close(moved, 10 * (torch.tensor([0.5, 0.3, 0.2]) - 1 / 3))


def test_a_poisoned_record_spoils_nothing(mechanism, splits, context_of) -> None:
    assert finite_though_poisoned(mechanism, splits, context_of())


# ---------------------------------------------------------------------- whole runs on neighbouring data


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_one_unit_moves_what_is_noised_by_the_claim_and_nothing_else(kind, mechanism, splits) -> None:
    found, same = ratio(mechanism, kind, splits, sums=4)
    assert 0.3 < found <= 1.0001
    assert same


def test_patients_that_count_by_their_records_are_caught(mechanism, splits, monkeypatch) -> None:
    """Broken on purpose."""
    counted_by_records(monkeypatch)
    assert ratio(mechanism, "a patient less", splits, sums=4)[0] > 1.0001


def test_rows_that_are_not_clipped_release_nothing(mechanism, splits, context_of, monkeypatch) -> None:
    monkeypatch.setattr(sufficient_statistics, "rows_of", lambda *a, **k: 3.0 * rows_of(*a, **k))
    with pytest.raises(BrokenGuarantee, match="Nothing is released"):
        mechanism.fit(model_of(), splits, LITTLE, context_of())


# ---------------------------------------------------------------------- going on


def test_a_release_that_was_paid_for_is_used_again(
    mechanism, splits, context_of, folder, monkeypatch
) -> None:
    budget = Budget(epsilon=1.0, delta=1e-3)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the noise was drawn, before anything was made of it
        patch.setattr(sufficient_statistics, "head_of", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, budget, secret(context_of, folder))
    assert checkpoint.paid(folder) == 1
    kept = checkpoint.load(folder)
    assert kept is not None
    assert (folder / checkpoint.CHECKPOINT).stat().st_mode & 0o77 == 0
    with monkeypatch.context() as patch:  # no noise is drawn, and no record is added up
        patch.setattr(NoiseSource, "add", killed)
        patch.setattr(sufficient_statistics, "summed", killed)
        one, _ = mechanism.fit(model_of(), splits, budget, secret(context_of, folder))
        two, _ = mechanism.fit(model_of(), splits, budget, secret(context_of, folder))
    fresh, _ = mechanism.fit(model_of(), splits, budget, context_of(streams=Streams(seed=7)))
    assert torch.equal(one.weights["1.head.2.weight"], two.weights["1.head.2.weight"])
    assert not torch.equal(one.weights["1.head.2.weight"], fresh.weights["1.head.2.weight"])


def test_killed_before_anything_was_written_it_draws_anew(
    mechanism, splits, context_of, folder, monkeypatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sufficient_statistics, "noised", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    state = checkpoint.load(folder)
    assert state is not None
    assert state["made"] is None
    release, _ = mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    assert accuracy(release, splits) > 0.9


def test_other_terms_and_a_lost_release_are_refused(mechanism, splits, context_of, folder) -> None:
    mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    for other in (replace(mechanism, cross_share=0.4), replace(mechanism, feature_norm=5.0)):
        with pytest.raises(DptrainError, match="begun under another plan"):
            other.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    another = model_of()
    with torch.no_grad():
        another[1].features[0].weight.mul_(2)
    with pytest.raises(DptrainError, match="another frozen part"):
        mechanism.fit(another, splits, LITTLE, secret(context_of, folder))
    (folder / checkpoint.CHECKPOINT).unlink()
    with pytest.raises(DptrainError, match=r"paid for but checkpoint\.pt is gone"):
        mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))


# ---------------------------------------------------------------------- whom it refuses


def test_a_model_without_a_linear_head_on_a_frozen_part_is_refused(mechanism, splits, mlp) -> None:
    deep = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
    for model in (mlp, model_of(deep), model_of(nn.Linear(64, 3, bias=False))):
        with pytest.raises(ConfigError, match="trains a linear layer with a bias on a frozen part"):
            mechanism.prepare(model, splits)
    with pytest.raises(ConfigError, match="the model has 10,001; choose 10,000 at most"):
        mechanism.prepare(model_of(nn.Linear(10_001, 3)), splits)
    bare = mechanism.prepare(model_of(nn.Linear(64, 3)), splits)
    assert isinstance(bare[1].head[1], Clipped)
    assert mechanism.prepare(bare, splits) is bare


def test_too_many_records_are_refused_before_anything_is_spent(mechanism, splits, monkeypatch) -> None:
    monkeypatch.setattr(exact_moments, "MOST_RECORDS", 10)
    with pytest.raises(ConfigError, match="adds up 10 records exactly"):
        mechanism.plan(splits, LITTLE)


def test_a_frozen_part_that_mixes_records_is_refused(mechanism, splits) -> None:
    class Centred(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs - inputs.mean(0)).flatten(1)

    model = nn.Sequential(Normalise((0.5,), (0.5,)), FrozenFeatures(Centred(), nn.Linear(64, 3)))
    with pytest.raises(ConfigError, match="depend"):
        mechanism.prepare(model, splits)


def test_what_it_cannot_use_is_refused_with_the_cure(mechanism, splits, settings_of) -> None:
    labels = replace(splits, task=MultiLabel(labels=3))
    with pytest.raises(ConfigError, match="labels of multi_label; use mechanism=dpsgd"):
        mechanism.prepare(model_of(), labels)
    copied = replace(mechanism, settings=settings_of(augmentation=Augmentation(copies=2)))
    with pytest.raises(ConfigError, match=r"training\.augmentations=2: .* set it to 0"):
        copied.prepare(model_of(), splits)
    with pytest.raises(ConfigError, match="leave nothing of the budget for second moments"):
        replace(mechanism, eigenvalue_share=0.5)
    with pytest.raises(ConfigError, match=r"privacy\.unit=patient needs group ids"):
        mechanism.plan(splits, Budget(epsilon=1.0, delta=1e-3, unit="patient"))


# ---------------------------------------------------------------------- a whole run


RUN = (
    "mechanism=sufficient_statistics",
    "mechanism.feature_norm=10",
    "model=scatter_linear",
    "model.components=40",
    "attack=[membership_loss,class_inversion]",
    "privacy.epsilon=3",
)


def test_a_run_is_attacked_beside_its_control_and_stated(tmp_path: Path) -> None:
    words = (*RUN, *QUICK, *QUICK_ATTACKS[:2], QUICK_ATTACKS[-1], f"output={tmp_path}", "tracking=none")
    cli.main(order(*words), None)
    (report,) = tmp_path.glob(f"*/{runs.REPORT}")
    folder, found = report.parent, read_json(report)
    assert found["mechanism"] == "SufficientStatistics"
    assert found["control"]["accuracy"] > 0.9
    assert {line["attack"] for line in found["leakage"]} == {"membership_loss", "class_inversion"}
    assert all(line["control"] is not None for line in found["leakage"])
    stated = from_json(found["guarantee"])
    assert 2.98 < stated.epsilon <= 3.0
    for name in ("report.md", "report.html", "model_card.md"):
        text = (folder / name).read_text()
        assert "smallest eigenvalue" in text, name
        assert "step&#39;s sum" not in text, name
        assert "step's sum of gradients" not in text, name
    document = json.loads((folder / "statement.json").read_text())
    assert list(Draft202012Validator(schema()).iter_errors(document)) == []
    assert not (folder / checkpoint.CHECKPOINT).exists()
    _, checks = verify.run(parse(order("task=verify", f"release={folder}").config))
    assert [each.name for each in checks if each.holds is False] == []


def test_an_attack_on_steps_is_refused_before_training(tmp_path: Path) -> None:
    asked = order(*RUN, "attack=[reconstruction_transcript]", f"output={tmp_path}")
    with pytest.raises(ConfigError, match=r"needs transcript, which mechanism .* does not offer"):
        assemble(parse(asked.config))


def test_its_control_is_kept_apart_from_that_of_training_in_steps() -> None:
    from dptrain.runs.cache import without_privacy

    recipe = {"mechanism": asdict(LITTLE), "privacy": {"epsilon": 1}}
    assert "mechanism" not in without_privacy(recipe)
    assert "mechanism" in without_privacy(recipe, own=True)


@pytest.mark.parametrize("recipe", ["mnist_statistics", "medical_statistics", "fashion_statistics"])
def test_a_recipe_asks_for_it_and_for_no_attack_on_steps(recipe: str) -> None:
    parts = assemble(parse(order(recipe=recipe).config))
    assert isinstance(parts.mechanism, SufficientStatistics)
    assert len(parts.attacks) == 4
    text = (Path(__file__).parents[2] / "recipes" / f"{recipe}.yaml").read_text()
    assert text.startswith(f"# python -m dptrain recipe={recipe}")
    assert len(text.splitlines()) <= 36
