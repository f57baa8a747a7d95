"""DP-SGD in coordinates of a noisy covariance: what it promises, on neighbouring data, resumed; a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from once import (
    NEIGHBOURS,
    accuracy,
    counted_by_records,
    finite_though_poisoned,
    model_of,
    neighbours,
)
from support import QUICK, order
from torch import Tensor

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Access, BrokenGuarantee, Budget, ConfigError, DptrainError, Splits
from dptrain.mechanisms import preconditioned
from dptrain.mechanisms.preconditioned import Preconditioned
from dptrain.models.clipped import Clipped
from dptrain.pipeline import verify
from dptrain.privacy import exact_moments
from dptrain.privacy.exact_moments import rows_of
from dptrain.privacy.written import from_json
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.training import checkpoint

pytestmark = pytest.mark.run

QUIET = Budget(epsilon=None, noise_multiplier=1.0, delta=1e-5)


@pytest.fixture
def mechanism(settings_of) -> Preconditioned:
    rates = {
        "expected_batch_size": 30,
        "sample_rate": 0.5,
        "steps": 16,
    }
    settings = settings_of(feature_cache_gib=1.0, rates=rates)
    return Preconditioned(settings=settings, feature_norm=4.0, ridge=0.1)


def test_it_learns_and_promises_what_its_plan_says(mechanism, splits, context_of) -> None:
    release, guarantee = mechanism.fit(model_of(), splits, QUIET, context_of())
    assert release.offers == mechanism.offers == {Access.WEIGHTS, Access.CONFIDENCES, Access.LABELS}
    assert accuracy(release, splits) > 0.8
    stated = guarantee.statement()
    said = dict(stated.plan)
    assert "0.1 of the budget" in said["covariance"]
    assert said["noise of steps"] == "noise multiplier 1"
    assert "second moments" in stated.released
    assert stated.sensitivity is not None
    assert stated.sensitivity.ratio is not None
    assert stated.sensitivity.ratio <= 1.0001
    assert len(release.published) == 1
    assert any(isinstance(each, Clipped) for each in release.build().modules())


def test_its_control_learns_as_well_without_noise(mechanism, splits, context_of) -> None:
    control, guarantee = mechanism.control(mechanism.settings).fit(model_of(), splits, QUIET, context_of())
    assert math.isinf(guarantee.epsilon())
    assert accuracy(control, splits) > 0.9


def test_what_is_released_predicts_what_was_trained(mechanism, splits, context_of, monkeypatch) -> None:
    seen: list[tuple[Any, Splits]] = []
    fit = preconditioned.fit

    def watching(head: Any, rows: Splits, *arguments: Any, **others: Any) -> Any:
        fitted = fit(head, rows, *arguments, **others)
        seen.append((fitted.release, rows))
        return fitted

    monkeypatch.setattr(preconditioned, "fit", watching)
    release, _ = mechanism.fit(model_of(), splits, QUIET, context_of())
    ((trained, rows),) = seen
    expected = trained.predict(rows.holdout.inputs)
    torch.testing.assert_close(release.predict(splits.holdout.inputs), expected, atol=5e-3, rtol=0.0)


# ---------------------------------------------------------------------- whole runs on neighbouring data


def fitted(mechanism: Any, splits: Splits, budget: Budget, made: Tensor | None, context: Any) -> Any:
    """Second moments before noise, its deviation, they after it (`made`, if given), and the rows."""
    seen: list[Any] = []
    noisy_symmetric, fit = preconditioned.noisy_symmetric, preconditioned.fit

    def adding(second: Tensor, std: float, add: Any) -> Tensor:
        seen.extend([second, std, noisy_symmetric(second, std, add) if made is None else made])
        return seen[-1]

    def watching(head: Any, rows: Splits, *arguments: Any, **others: Any) -> Any:
        seen.append(rows)
        return fit(head, rows, *arguments, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preconditioned, "noisy_symmetric", adding)
        patch.setattr(preconditioned, "fit", watching)
        mechanism.fit(model_of(), splits, budget, context)
    return seen


def ratio(mechanism: Any, kind: str, splits: Splits, context: Any) -> tuple[float, bool]:
    """How far one unit moves second moments, over the claim, and whether other records are as they were."""
    one, other, budget = neighbours(kind, splits)
    second, std, made, rows = fitted(mechanism, one, budget, None, context)
    moved, _, _, others = fitted(mechanism, other, budget, made, context)
    claim = mechanism.plan(one, budget).covariance_mu
    gone = {"the first record less": [0], "one replaced": [5], "a patient less": [0, 1, 2, 3]}[kind]
    kept = [at for at in range(60) if at not in gone]
    ours = rows.train.inputs[kept]
    theirs = others.train.inputs[kept] if kind == "one replaced" else others.train.inputs
    same = torch.equal(ours, theirs) and torch.equal(rows.holdout.inputs, others.holdout.inputs)
    return float((second - moved).norm()) / std / claim, same


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_one_unit_moves_second_moments_by_the_claim_and_no_other_record(
    kind, mechanism, splits, context_of
) -> None:
    found, same = ratio(mechanism, kind, splits, context_of())
    assert 0.3 < found <= 1.0001
    assert same


def test_patients_that_count_by_their_records_are_caught(mechanism, splits, context_of, monkeypatch) -> None:
    """Broken on purpose."""
    counted_by_records(monkeypatch)
    assert ratio(mechanism, "a patient less", splits, context_of())[0] > 1.0001


def test_a_poisoned_record_spoils_nothing(mechanism, splits, context_of) -> None:
    assert finite_though_poisoned(mechanism, splits, context_of())


def test_rows_that_are_not_clipped_release_nothing(mechanism, splits, context_of, monkeypatch) -> None:
    monkeypatch.setattr(preconditioned, "rows_of", lambda *a, **k: 3.0 * rows_of(*a, **k))
    with pytest.raises(BrokenGuarantee, match="Nothing is released"):
        mechanism.fit(model_of(), splits, QUIET, context_of())


# ---------------------------------------------------------------------- going on


def test_killed_anywhere_it_ends_as_if_it_had_not_been(
    mechanism, splits, context_of, folder, monkeypatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    whole, _ = mechanism.fit(model_of(), splits, QUIET, context_of())
    with monkeypatch.context() as patch:  # after second moments were released, before the first step
        patch.setattr(Preconditioned, "coordinates", killed)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, QUIET, context_of(folder=folder))
    assert checkpoint.paid(folder / checkpoint.BEFORE) == 1
    assert (folder / checkpoint.BEFORE / checkpoint.CHECKPOINT).stat().st_mode & 0o77 == 0
    monkeypatch.setattr(preconditioned, "noisy_symmetric", killed)  # no second moments are released again
    pay = checkpoint.pay

    def eight(folder: Path, *, steps: int, epsilon: float) -> None:
        pay(folder, steps=steps, epsilon=epsilon)
        if steps == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # in the midst of a step that is paid for
        patch.setattr(checkpoint, "pay", eight)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(model_of(), splits, QUIET, context_of(folder=folder))
    assert checkpoint.paid(folder) == 8
    release, _ = mechanism.fit(model_of(), splits, QUIET, context_of(folder=folder))
    assert torch.equal(release.weights["1.head.2.weight"], whole.weights["1.head.2.weight"])
    with pytest.raises(DptrainError, match="begun under another plan"):
        replace(mechanism, covariance_share=0.3).fit(model_of(), splits, QUIET, context_of(folder=folder))
    checkpoint.remove(folder)
    assert not (folder / checkpoint.BEFORE).exists()


def test_too_many_records_are_refused_before_anything_is_spent(mechanism, splits, monkeypatch) -> None:
    monkeypatch.setattr(exact_moments, "MOST_RECORDS", 10)
    with pytest.raises(ConfigError, match="mechanism=preconditioned adds up 10 records exactly"):
        mechanism.plan(splits, Budget(epsilon=3.0, delta=1e-4))


def test_what_it_cannot_use_is_refused(mechanism, splits, mlp) -> None:
    with pytest.raises(ConfigError, match="mechanism=preconditioned trains a linear layer with a bias"):
        mechanism.prepare(mlp, splits)
    with pytest.raises(ConfigError, match="its steps are taken on features that only this training has"):
        assemble(parse(order("mechanism=preconditioned", "attack=[audit_canaries]").config))


def test_a_run_is_attacked_beside_its_control_stated_and_verified(tmp_path: Path) -> None:
    words = (
        "mechanism=preconditioned", "mechanism.feature_norm=10", "model=scatter_linear",
        "model.components=40", "attack=[membership_loss]", "privacy.epsilon=3",
    )  # fmt: skip
    cli.main(order(*words, *QUICK, f"output={tmp_path}", "tracking=none"), None)
    (report,) = tmp_path.glob(f"*/{runs.REPORT}")
    folder, found = report.parent, read_json(report)
    assert found["mechanism"] == "Preconditioned"
    assert all(line["control"] is not None for line in found["leakage"])
    assert 2.98 < from_json(found["guarantee"]).epsilon <= 3.0
    for name in ("report.md", "report.html", "model_card.md"):
        assert "second moments of features once" in (folder / name).read_text(), name
    assert not (folder / checkpoint.BEFORE).exists()
    _, checks = verify.run(parse(order("task=verify", f"release={folder}").config))
    assert [each.name for each in checks if each.holds is False] == []
