"""Trainings by one process or by several, for tests that compare them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from dptrain.contracts import Budget, Context, Release, Splits
from dptrain.mechanisms.dpsgd import DPSGD

Fit = Callable[..., tuple[Release, Any]]


def model(name: str = "mlp") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if name == "cnn":
            layers = [nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.Linear(12, 3))


class Alone:
    """One process, which divides batches as several would."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.way, self.sharded = "", False

    def team(self, job: object) -> Any:  # noqa: ARG002
        return nullcontext(Nobody())


class Nobody:
    """A team of one."""

    size = 1

    def begin(self, *_: Any) -> None:
        pass

    def collect(self) -> float:
        return 0.0


def trainer(splits: Splits, settings_of: Callable[..., Any], context_of: Callable[..., Context]) -> Fit:
    """Trains by these ranks, or by one process that divides batches as so many `lanes` would."""

    def run(
        ranks: Any,
        *,
        name: str = "mlp",
        data: Splits = splits,
        unit: str = "record",
        lanes: int = 3,
        mechanism: type = DPSGD,
        context: dict[str, Any] | None = None,
        **changes: Any,
    ) -> tuple[Release, Any]:
        settings = settings_of(**{"physical_batch_size": 4, **changes})
        budget = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0, unit=unit)
        surroundings = context_of(ranks=ranks or Alone(lanes), **(context or {}))
        found: tuple[Release, Any] = mechanism(settings=settings).fit(model(name), data, budget, surroundings)
        return found

    return run
