"""What a plan says of its time: every copy of a record counts, and features where they are made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import order
from torch import nn

from dptrain.assembly.components import assemble
from dptrain.config import parse
from dptrain.contracts import Briefing, Budget, Splits
from dptrain.evaluation.assignment import Assignments
from dptrain.models.normalise import Normalise
from dptrain.models.scatter import ScatterLinear
from dptrain.pipeline import summary
from dptrain.pipeline.experiment import Experiment
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.report.console import Console
from dptrain.training.estimate import estimate_seconds

pytestmark = pytest.mark.run

CPU = torch.device("cpu")
COST = 5.0  # seconds that making features takes here


class Clock:
    """A second passes each time that somebody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("dptrain.training.estimate.time.perf_counter", made)
    return made


@pytest.fixture
def scattered() -> nn.Sequential:
    return _named(ScatterLinear((1, 8, 8), 3))


def _named(network: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("normalise", Normalise((0.5,), (0.5,)))
    model.add_module("network", network)
    return model


def test_every_copy_of_a_record_takes_its_time(
    clock: Clock, mlp: nn.Module, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    plan = make_plan_of(steps=20, expected_batch_size=32)
    once = estimate_seconds(mlp, plan, torch.zeros(1, 1, 8, 8), CPU)
    assert clock.now == 4.0
    assert once == 20.0
    assert estimate_seconds(mlp, plan, torch.zeros(1, 1, 8, 8), CPU, copies=6) == 6 * once


def test_features_take_time_where_they_are_made_at_each_step(
    clock: Clock, scattered: nn.Sequential, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    def pass_by(*_: Any) -> None:
        clock.now += COST

    scattered.get_submodule("network.features").register_forward_hook(pass_by)
    plan = make_plan_of(steps=20, expected_batch_size=32)
    made_once = (1.0 + COST) / 32 * plan.units
    assert estimate_seconds(scattered, plan, torch.zeros(1, 1, 8, 8), CPU) == made_once + 20.0
    assert estimate_seconds(scattered, plan, torch.zeros(1, 1, 8, 8), CPU, remade=True) == 20.0 * (1.0 + COST)


@pytest.mark.parametrize(
    ("model", "overrides", "copies", "why"),
    [
        ("scattered", (), 1, ""),
        ("scattered", ("training.augmentations=4",), 4, "training.augmentations=4 shows other copies"),
        ("scattered", ("training.augmentations=1", "training.flip=true"), 1, "augmentations=1 shows"),
        ("scattered", ("performance.feature_cache_gib=0",), 1, "GiB, and performance.feature_cache_gib=0"),
        ("mlp", ("training.augmentations=4",), 4, ""),
    ],
)  # fmt: skip
def test_the_plan_knows_copies_and_whether_features_are_made_once(
    model: str,
    overrides: tuple[str, ...],
    copies: int,
    why: str,
    splits: Splits,
    mlp: nn.Module,
    scattered: nn.Sequential,
    budget: Budget,
    make_plan_of: Callable[..., DPSGDPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def estimated(*_: Any, **how: Any) -> float:
        asked.update(how)
        return 1.0

    monkeypatch.setattr(summary, "estimate_seconds", estimated)
    config = parse(order(*overrides).config)
    experiment = Experiment(
        config=config,
        parts=assemble(config),
        conditions=(),
        left_out=(),
        splits=splits,
        copies={},
        assignments=Assignments(),
        model=scattered if model == "scattered" else _named(mlp),
        budget=budget,
        plan=make_plan_of(),
        console=Console(),
    )
    found: Briefing = summary.brief(experiment, recipe="quickstart", folder=Path())
    assert asked == {"engine": "bookkeeping", "copies": copies, "remade": bool(why), "task": None}
    assert why in found.features
    assert bool(found.features) == bool(why)
