"""Objective perturbation: what it promises, on neighbouring data, resumed, refused; a whole run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from densities import Problem
from once import (
    LITTLE,
    NEIGHBOURS,
    accuracy,
    counted_by_records,
    finite_though_poisoned,
    fitted,
    model_of,
    neighbours,
    secret,
)
from support import QUICK, order

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import BrokenGuarantee, Budget, ConfigError, DptrainError, Splits
from dptrain.mechanisms import logistic_once
from dptrain.mechanisms.objective_perturbation import ObjectivePerturbation
from dptrain.pipeline import verify
from dptrain.privacy import perturbed_objective
from dptrain.privacy.exact_moments import rows_of
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.ridge_logistic import Minimum
from dptrain.privacy.written import from_json
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.training import checkpoint

pytestmark = pytest.mark.run


@pytest.fixture
def mechanism(settings_of) -> ObjectivePerturbation:
    return ObjectivePerturbation(
        settings=settings_of(feature_cache_gib=1.0), feature_norm=4.0, least_ridge=3.0
    )


def test_it_learns_and_promises_what_its_plan_says(mechanism, splits, context_of) -> None:
    release, guarantee = mechanism.fit(model_of(), splits, Budget(epsilon=8.0, delta=1e-3), context_of())
    assert release.offers == mechanism.offers
    assert 7.95 < guarantee.epsilon() <= 8.0
    stated = guarantee.statement()
    assert stated.sensitivity is not None
    assert stated.sensitivity.most == 1.0
    assert not stated.cross_checks  # none of them reads bounds of losses
    assert dict(stated.plan)["ridge"] == "of 3 records, by which no record changes the curvature much"
    assert "perturbed objective" in stated.released
    named = Budget(epsilon=None, noise_multiplier=0.3, delta=1e-5)
    nearly, _ = mechanism.fit(model_of(), splits, named, context_of())
    assert accuracy(nearly, splits) > 0.8


def test_its_control_is_the_same_without_noise(mechanism, splits, context_of, settings_of, flat) -> None:
    control, guarantee = mechanism.control(settings_of()).fit(model_of(), splits, LITTLE, context_of())
    assert math.isinf(guarantee.epsilon())
    quiet = Budget(epsilon=None, noise_multiplier=0.2, delta=1e-5)
    nearly, _ = mechanism.fit(model_of(), splits, quiet, context_of())
    # The linear term moves the minimum by itself over the ridge at most, and features are up to 4 long.
    gone = float((flat(nearly.weights) - flat(control.weights)).norm())
    assert 0.0 < gone < 0.2 * math.sqrt(2.0) * (math.sqrt(3 * 65) + 6) / 3.0


# ---------------------------------------------------------------------- whole runs on neighbouring data


def watched(mechanism: Any, splits: Splits, budget: Budget, noisy: Any = None) -> tuple[Problem, Any, Any]:
    """The problem that was solved, what was found, and the rest; `noisy` stands in for what is released."""
    seen: list[tuple[Problem, torch.Tensor]] = []
    minimum = perturbed_objective.minimum

    def watching(batches: Any, *, ridge: float, offsets: torch.Tensor, **others: Any) -> Minimum:
        given = list(batches)
        found = minimum(given, ridge=ridge, offsets=offsets, **others)
        rows, labels, weights = (torch.cat(each) for each in zip(*given, strict=True))
        seen.append((Problem(rows, labels, weights, ridge, offsets.double()), found.weights))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturbed_objective, "minimum", watching)
        _, after, rest = fitted(mechanism, splits, budget, noisy)
    ((problem, found),) = seen
    return problem, found, (after, rest)


def compared(mechanism: Any, kind: str, splits: Splits) -> tuple[float, float, bool]:
    """How the log density of what was found changes, at most how, and whether all else is the same."""
    one, other, budget = neighbours(kind, splits)
    first, point, (after, rest) = watched(mechanism, one, budget)
    second, _, (_, as_before) = watched(mechanism, other, budget, after)
    plan = mechanism.plan(one, budget)
    gone = {"the first record less": [0], "one replaced": [5], "a patient less": [0, 1, 2, 3]}[kind]
    change = first.log_density(point, plan.linear_std) - second.log_density(point, plan.linear_std)
    normals = first.normals(point, plan.linear_std, first.rows[gone], first.labels[gone])
    most = [plan._loss_at(each) for each in normals]
    if kind == "one replaced":
        come = first.normals(point, -plan.linear_std, second.rows[gone], second.labels[gone])
        most = [*most, plan._loss_at(come[0])]
    same = all(torch.equal(rest[0][name], value) for name, value in as_before[0].items())
    return change, float(np.mean(most)), same and rest[1:] == as_before[1:]


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_one_unit_changes_the_density_by_the_claim_and_nothing_else(kind, mechanism, splits) -> None:
    change, most, same = compared(mechanism, kind, splits)
    assert change <= most + 1e-6
    assert same


def test_patients_that_count_by_their_records_are_caught(mechanism, splits, monkeypatch) -> None:
    """Broken on purpose: records of one patient, all alike and of the loudest kind, count in full."""
    splits.train.inputs[:4] = 1.0
    splits.train.labels[:4] = 0
    prior = replace(splits, class_prior=(1e-12, 0.5, 0.5))
    softly = replace(mechanism, least_ridge=1000.0)  # so that the minimum stays where the loss is steep
    change, most, _ = compared(softly, "a patient less", prior)
    assert change <= most + 1e-6
    counted_by_records(monkeypatch)
    change, most, _ = compared(softly, "a patient less", prior)
    assert change > most + 0.1


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

    with monkeypatch.context() as patch:  # between the draw of the linear term and that of the other noise
        patch.setattr(NoiseSource, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    assert checkpoint.load(folder)["made"] is None
    with monkeypatch.context() as patch:  # after both, before anything was made of what was found
        patch.setattr(ObjectivePerturbation, "head", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    assert checkpoint.paid(folder) == 1
    with monkeypatch.context() as patch:
        patch.setattr(NoiseSource, "normal", killed)
        patch.setattr(NoiseSource, "add", killed)
        one, _ = mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
        two, _ = mechanism.fit(model_of(), splits, LITTLE, secret(context_of, folder))
    assert torch.equal(one.weights["1.head.2.weight"], two.weights["1.head.2.weight"])
    with pytest.raises(DptrainError, match="begun under another plan"):
        replace(mechanism, least_ridge=2.0).fit(model_of(), splits, LITTLE, secret(context_of, folder))


def test_a_ridge_that_is_too_little_is_refused_before_anything_is_spent(mechanism, splits) -> None:
    with pytest.raises(
        ConfigError, match=r"mechanism\.least_ridge=0\.1 .* is too little for privacy\.epsilon=1"
    ):
        replace(mechanism, least_ridge=0.1, ridge_per_noise=0.0).plan(splits, Budget(epsilon=1.0, delta=1e-3))


@pytest.mark.parametrize("recipe", ["mnist_objective_perturbation", "medical_objective_perturbation"])
def test_a_recipe_asks_for_it_and_for_no_attack_on_steps(recipe: str) -> None:
    parts = assemble(parse(order(recipe=recipe).config))
    assert isinstance(parts.mechanism, ObjectivePerturbation)
    assert len(parts.attacks) == 4
    text = (Path(__file__).parents[2] / "recipes" / f"{recipe}.yaml").read_text()
    assert text.startswith(f"# python -m dptrain recipe={recipe}")


def test_a_run_is_attacked_beside_its_control_stated_and_verified(tmp_path: Path) -> None:
    words = (
        "mechanism=objective_perturbation", "mechanism.feature_norm=10", "model=scatter_linear",
        "model.components=40", "attack=[membership_loss]", "privacy.epsilon=3",
    )  # fmt: skip
    words = (*words, *QUICK, f"output={tmp_path}", "tracking=none")
    cli.main(order(*words), None)
    (report,) = tmp_path.glob(f"*/{runs.REPORT}")
    folder, found = report.parent, read_json(report)
    assert found["mechanism"] == "ObjectivePerturbation"
    assert all(line["control"] is not None for line in found["leakage"])
    assert 2.98 < from_json(found["guarantee"]).epsilon <= 3.0
    for name in ("report.md", "report.html", "model_card.md"):
        text = (folder / name).read_text()
        assert "by which no record changes the curvature much" in text, name
        assert "step's sum of gradients" not in text, name
    _, checks = verify.run(parse(order("task=verify", f"release={folder}").config))
    assert [each.name for each in checks if each.holds is False] == []
