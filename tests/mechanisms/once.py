"""Heads that are made at once, for tests of mechanisms that make them: a model, and runs on neighbours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dptrain.contracts import Budget, Context, Release, Splits, Streams
from dptrain.mechanisms import head_once
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.normalise import Normalise
from dptrain.privacy.noise.source import NoiseSource
from dptrain.tracking import NullRun

LITTLE = Budget(epsilon=None, noise_multiplier=0.05, delta=1e-5)  # noise


def model_of(head: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        features = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten())
        made = FrozenFeatures(features, head or nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    return nn.Sequential(Normalise((0.5,), (0.5,)), made)


def accuracy(release: Release, splits: Splits) -> float:
    return float((release.predict(splits.test.inputs).argmax(1) == splits.test.labels).float().mean())


def fitted(
    mechanism: Any, splits: Splits, budget: Budget, noisy: list[Tensor] | None = None
) -> tuple[list[tuple[Tensor, float]], list[Tensor], Any]:
    """Sums before noise with its deviation, sums after it (those of another run, if given), and the rest."""
    sums: list[tuple[Tensor, float]] = []
    after: list[Tensor] = []
    add = NoiseSource.add

    def adding(source: NoiseSource, added: list[Tensor], std: float) -> list[Tensor]:
        sums.append((added[0].clone(), std))
        after.append(add(source, added, std)[0] if noisy is None else noisy[len(sums) - 1])
        return [after[-1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseSource, "add", adding)
        context = Context(
            streams=Streams(seed=7, deterministic=True),
            tracker=NullRun(),
            device=torch.device("cpu"),
        )
        release, guarantee = mechanism.fit(model_of(), splits, budget, context)
    rest = release.weights, release.published, guarantee.curve, replace(guarantee.plan, units=0)
    return sums, after, rest


NEIGHBOURS = ("the first record less", "one replaced", "a patient less")


def neighbours(kind: str, splits: Splits) -> tuple[Splits, Splits, Budget]:
    budget = Budget(epsilon=None, noise_multiplier=2.0, delta=1e-5)
    if kind == "one replaced":
        other = splits.train.inputs.clone()
        other[5] = 1 - other[5]
        labels = splits.train.labels.clone()
        labels[5] = (labels[5] + 1) % 3
        changed = replace(splits, train=type(splits.train)(other, labels))
        return splits, changed, replace(budget, adjacency="replace_one")
    if kind == "a patient less":
        grouped = replace(splits, group_ids=torch.arange(60) // 4)
        less = replace(
            grouped, train=splits.train.take(torch.arange(4, 60)), group_ids=torch.arange(4, 60) // 4
        )
        return grouped, less, replace(budget, unit="patient")
    return splits, replace(splits, train=splits.train.take(torch.arange(1, 60))), budget


def ratio(mechanism: Any, kind: str, splits: Splits, *, sums: int) -> tuple[float, bool]:
    """How far one unit moves all that is noised, over the claim; and whether all else is the same."""
    one, other, budget = neighbours(kind, splits)
    first, noisy, rest = fitted(mechanism, one, budget)
    second, _, as_before = fitted(mechanism, other, budget, noisy)
    assert len(first) == sums
    moved = math.sqrt(
        sum(float(((a - b) / std).square().sum()) for (a, std), (b, _) in zip(first, second, strict=True))
    )
    same = all(torch.equal(rest[0][name], value) for name, value in as_before[0].items())
    return moved / mechanism.plan(one, budget).mu, same and rest[1:] == as_before[1:]


def secret(context_of, folder: Path) -> Context:
    return context_of(folder=folder, streams=Streams(seed=7))


def finite_though_poisoned(mechanism: Any, splits: Splits, context: Context) -> bool:
    """Whether all weights are numbers where those of every other record are none."""
    splits.train.inputs[::2] = math.nan
    release, _ = mechanism.fit(model_of(), splits, Budget(epsilon=1.0, delta=1e-3), context)
    return all(bool(torch.isfinite(each).all()) for each in release.weights.values())


def counted_by_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the mechanisms: each record of a patient counts in full."""
    monkeypatch.setattr(head_once, "_weights", lambda splits, _: torch.ones(len(splits.train)).double())
