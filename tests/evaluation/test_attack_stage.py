"""Attacks that look on while a model trains: what becomes of the training when one of them fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dptrain.contracts import Budget, Context, DptrainError, Observation, Release, Splits, Targets
from dptrain.evaluation.observing import Timed
from dptrain.evaluation.stage import Subject
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.training.settings import Settings

pytestmark = pytest.mark.run


class Failing:
    """An observer that fails at a step, as it may where a record is not what it expects."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps: list[int] = []

    def observe(self, step: Observation) -> None:
        if step.step == self.at:
            raise IndexError("of a record")
        self.steps.append(step.step)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


@pytest.fixture
def mechanism(settings_of: Callable[..., Settings]) -> DPSGD:
    return DPSGD(settings=settings_of(), engine="hooks")


def as_seen(release: Release, splits: Splits, observer: Timed) -> Release:
    """The release as the observer's attack meets it."""
    targets = Targets.of(splits)
    return Subject(release=release, targets=targets, seen={"it": observer}).as_seen_by("it", None)


def test_a_training_ends_as_it_would_with_nobody_looking_on(
    mechanism: DPSGD,
    mlp: nn.Module,
    models: dict[str, Callable[[], nn.Module]],
    splits: Splits,
    budget: Budget,
    context_of: Callable[..., Context],
    flat: Callable[[Any], Tensor],
) -> None:
    observer = Timed(Failing(at=3))
    release, _ = mechanism.fit(mlp, splits, budget, context_of(planted=(4,), observers=(observer,)))
    alone, _ = mechanism.fit(models["mlp"](), splits, budget, context_of())
    assert torch.equal(flat(release.weights), flat(alone.weights))
    assert release.published == alone.published
    with pytest.raises(IndexError, match="of a record"):
        as_seen(release, splits, observer)


def test_an_attack_that_has_missed_steps_fails_when_the_run_goes_on_too(
    mechanism: DPSGD,
    models: dict[str, Callable[[], nn.Module]],
    splits: Splits,
    budget: Budget,
    context_of: Callable[..., Context],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update, taken = DPSGDEngine.update, []

    def crash(self: DPSGDEngine) -> None:
        taken.append(1)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return update(self)

    context = context_of(folder=folder, planted=(4,))
    with monkeypatch.context() as patch:
        patch.setattr(DPSGDEngine, "update", crash)
        with pytest.raises(KeyboardInterrupt):
            mechanism.fit(
                models["mlp"](), splits, budget, replace(context, observers=(Timed(Failing(at=2)),))
            )
    observer = Timed(Failing(at=99))
    release, _ = mechanism.fit(models["mlp"](), splits, budget, replace(context, observers=(observer,)))
    with pytest.raises(DptrainError, match=r"before this run was resumed \(IndexError: of a record\)"):
        as_seen(release, splits, observer)


def test_an_observer_that_has_seen_all_is_handed_on() -> None:
    inner = Failing(at=0)
    observer = Timed(inner)
    observer.load_state_dict(Timed(Failing(at=0)).state_dict())
    assert observer.transcript is inner
