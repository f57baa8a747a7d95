"""Output perturbation: what it releases and promises, on neighbouring data, resumed, refused; a whole run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
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

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import BrokenGuarantee, Budget, DoesNotApply, DptrainError
from dptrain.mechanisms import logistic_once
from dptrain.mechanisms.output_perturbation import OutputPerturbation
from dptrain.models.clipped import Clipped
from dptrain.pipeline import verify
from dptrain.privacy import ridge_logistic
from dptrain.privacy.exact_moments import rows_of
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.written import from_json
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.tasks import MultiLabel
from dptrain.training import checkpoint

pytestmark = pytest.mark.run


@pytest.fixture
def mechanism(settings_of) -> OutputPerturbation:
    return OutputPerturbation(settings=settings_of(feature_cache_gib=1.0), feature_norm=4.0, ridge=1.0)


def test_it_learns_and_promises_what_its_plan_says(mechanism, splits, context_of) -> None:
    release, guarantee = mechanism.fit(model_of(), splits, Budget(epsilon=8.0, delta=1e-3), context_of())
    assert release.offers == mechanism.offers
    assert 7.95 < guarantee.epsilon() <= 8.0
    stated = guarantee.statement()
    assert stated.sensitivity is not None
    assert stated.sensitivity.most == pytest.approx(1.0)
    assert dict(stated.plan)["ridge"] == "of 1 records, by which no record moves the minimum far"
    exact, _ = mechanism.fit(model_of(), splits, LITTLE, context_of())
    assert accuracy(exact, splits) > 0.8
    assert any(isinstance(each, Clipped) for each in release.build().modules())


def test_its_control_is_the_same_without_noise(mechanism, splits, context_of, settings_of, flat) -> None:
    control, guarantee = mechanism.control(settings_of()).fit(model_of(), splits, LITTLE, context_of())
    assert math.isinf(guarantee.epsilon())
    nearly, _ = mechanism.fit(model_of(), splits, LITTLE, context_of())  # six deviations are .12
    torch.testing.assert_close(
        flat(nearly.weights), flat(control.weights), atol=0.12, rtol=0.0
    )  # six deviations


def test_declared_frequencies_are_the_loss_s(mechanism, splits, context_of) -> None:
    """What is trained with the log of the frequencies added is released without, as DP-SGD's models are."""
    plain, weighed = (
        mechanism.fit(model_of(), replace(splits, class_prior=prior), LITTLE, context_of())[0].weights
        for prior in (None, (0.6, 0.2, 0.2))
    )
    moved = weighed["1.head.2.bias"] - plain["1.head.2.bias"]
    assert moved[0] < moved[1]
    assert moved[0] < moved[2]


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_one_unit_moves_what_is_noised_by_the_claim_and_nothing_else(kind, mechanism, splits) -> None:
    found, same = ratio(mechanism, kind, splits, sums=1)
    assert 0.01 < found <= 1.0001
    assert same


def test_patients_that_count_by_their_records_are_caught(mechanism, splits, monkeypatch) -> None:
    """Broken on purpose: records of one patient, all alike and of the loudest kind, count in full."""
    splits.train.inputs[:4] = 1.0
    splits.train.labels[:4] = 0
    prior = replace(splits, class_prior=(1e-12, 0.5, 0.5))
    softly = replace(mechanism, ridge=1000.0)  # so that the minimum stays where the loss is steep
    assert ratio(softly, "a patient less", prior, sums=1)[0] <= 1.0001
    counted_by_records(monkeypatch)
    assert ratio(softly, "a patient less", prior, sums=1)[0] > 1.0001


def test_a_poisoned_record_spoils_nothing(mechanism, splits, context_of) -> None:
    assert finite_though_poisoned(mechanism, splits, context_of())


def test_rows_that_are_not_clipped_release_nothing(mechanism, splits, context_of, monkeypatch) -> None:
    monkeypatch.setattr(logistic_once, "rows_of", lambda *a, **k: 3.0 * rows_of(*a, **k))
    with pytest.raises(BrokenGuarantee, match="Nothing is released"):
        mechanism.fit(model_of(), splits, LITTLE, context_of())


def test_a_release_that_was_paid_for_is_used_again(
    mechanism, splits, context_of, folder, monkeypatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the noise was drawn, before anything was made of it
        patch.setattr(OutputPerturbation, "head", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    assert checkpoint.paid(folder) == 1
    with monkeypatch.context() as patch:
        patch.setattr(NoiseSource, "add", killed)
        one, _ = mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    assert accuracy(one, splits) > 0.8
    with pytest.raises(DptrainError, match="begun under another plan"):
        replace(mechanism, ridge=2.0).fit(model_of(), splits, LITTLE, secret(context_of, folder))


def test_a_minimum_that_is_not_found_is_not_released(mechanism, splits, context_of, monkeypatch) -> None:
    monkeypatch.setattr(ridge_logistic, "MOST_STEPS", 1)
    monkeypatch.setattr(ridge_logistic, "MOST_NEWTON", 0)
    with pytest.raises(DptrainError, match=r"with a ridge of 1 the minimum was not found .* larger ridge"):
        mechanism.fit(model_of(), splits, LITTLE, context_of())


def test_what_it_cannot_use_does_not_apply(mechanism, splits, mlp) -> None:
    with pytest.raises(DoesNotApply, match="mechanism=output_perturbation trains a linear layer"):
        mechanism.prepare(mlp, splits)
    with pytest.raises(DoesNotApply, match="labels of multi_label; use mechanism=dpsgd"):
        mechanism.prepare(model_of(), replace(splits, task=MultiLabel(labels=3)))


@pytest.mark.parametrize("recipe", ["mnist_output_perturbation", "medical_output_perturbation"])
def test_a_recipe_asks_for_it_and_for_no_attack_on_steps(recipe: str) -> None:
    parts = assemble(parse(order(recipe=recipe).config))
    assert isinstance(parts.mechanism, OutputPerturbation)
    assert len(parts.attacks) == 4
    text = (Path(__file__).parents[2] / "recipes" / f"{recipe}.yaml").read_text()
    assert text.startswith(f"# python -m dptrain recipe={recipe}")


def test_a_run_is_attacked_beside_its_control_stated_and_verified(tmp_path: Path) -> None:
    words = (
        "mechanism=output_perturbation", "mechanism.feature_norm=10", "model=scatter_linear",
        "model.components=40", "attack=[membership_loss,class_inversion]", "privacy.epsilon=3",
    )  # fmt: skip
    words = (*words, *QUICK, *QUICK_ATTACKS[:2], QUICK_ATTACKS[-1], f"output={tmp_path}", "tracking=none")
    cli.main(order(*words), None)
    (report,) = tmp_path.glob(f"*/{runs.REPORT}")
    folder, found = report.parent, read_json(report)
    assert found["mechanism"] == "OutputPerturbation"
    assert all(line["control"] is not None for line in found["leakage"])
    assert 2.98 < from_json(found["guarantee"]).epsilon <= 3.0
    for name in ("report.md", "report.html", "model_card.md"):
        text = (folder / name).read_text()
        assert "by which no record moves the minimum far" in text, name
        assert "step's sum of gradients" not in text, name
    _, checks = verify.run(parse(order("task=verify", f"release={folder}").config))
    assert [each.name for each in checks if each.holds is False] == []
