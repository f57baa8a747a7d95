"""A mechanism of one's own: noisy counts of each class by where an image is bright.

Its plan is not DP-SGD's, and what it releases are predictions: there is no model and there are no weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from torch import Tensor, nn

from dptrain.contracts import (
    Access,
    Budget,
    ConfigError,
    Context,
    Guarantee,
    PrivacyLoss,
    Randomness,
    Release,
    Splits,
)
from dptrain.privacy.guarantee import OUTSIDE, DPGuarantee

CELLS = 16  # which of an image's quarters are brighter than the whole
KEPT = "noisy_counts.json"


@dataclass(frozen=True, kw_only=True)
class CountsPlan:
    """Integer noise of probability proportional to exp(-decay |k|) on each count, once."""

    units: int
    decay: float
    classes: int
    adjacency: str = "add_remove"

    steps: ClassVar[int] = 1
    interval: ClassVar[float] = 1e-4

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        interval = interval or self.interval
        if steps == 0:
            return pld.identity(interval)
        moved = 2 if self.adjacency == "replace_one" else 1  # a record is counted in one cell, by one
        return pld.from_discrete_laplace_mechanism(
            self.decay, sensitivity=moved, value_discretization_interval=interval
        )

    def describe(self) -> tuple[tuple[str, str], ...]:
        return (
            ("noise", f"two-sided geometric, decay {self.decay:.4g}"),
            ("counts", f"{CELLS} cells of {self.classes} classes, each record in one"),
        )


@dataclass(frozen=True, kw_only=True)
class NoisyCounts:
    """Predicts by the noisy share of each class among the training images that are bright alike."""

    offers: ClassVar[frozenset[Access]] = frozenset({Access.CONFIDENCES, Access.LABELS})

    settings: Any  # of the trainings with steps, which it has not

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:  # noqa: ARG002
        return model

    def plan(self, splits: Splits, budget: Budget) -> CountsPlan:
        if budget.epsilon is None or budget.unit != "record":
            raise ConfigError("mechanism=noisy_counts needs privacy.epsilon and privacy.unit=record")
        decay = budget.epsilon / (2 if budget.adjacency == "replace_one" else 1)
        return CountsPlan(
            units=len(splits.train), decay=decay, classes=splits.num_classes, adjacency=budget.adjacency
        )

    def fit(
        self,
        model: nn.Module,  # noqa: ARG002
        splits: Splits,
        budget: Budget,
        context: Context,
    ) -> tuple[Release, Guarantee]:
        plan, streams = self.plan(splits, budget), context.streams
        kept = None if context.folder is None else context.folder / KEPT
        noisy = _noised(splits, plan, streams.secret("noise"), kept)
        spent = float(plan.loss().get_epsilon_for_delta(budget.delta))
        if context.progress is not None:
            context.progress(done=1, total=1, epsilon=spent)
        guarantee = DPGuarantee(
            plan=plan,
            budget=budget,
            randomness=Randomness(
                secret=not streams.deterministic,
                cryptographic=True,
                source="SHA-256 of a secret key",
                assumptions=("Noise is whole numbers of 64 random bits each, which is taken to be exact.",),
            ),
            outside=OUTSIDE,
            released="predictions made of noisy counts",
            void="noise was drawn from the public seed" if streams.deterministic else None,
            curve=((0, 0.0), (1, spent)),
        )
        return Release(predictions=partial(_predict, noisy), device=context.device), guarantee


def cells(inputs: Tensor) -> Tensor:
    """For each image (N, 1, height, width) the number of its cell: (N,)."""
    quarters = nn.functional.adaptive_avg_pool2d(inputs.float(), 2).flatten(1)
    bright = quarters > quarters.mean(1, keepdim=True)
    return (bright * torch.tensor([1, 2, 4, 8], device=inputs.device)).sum(1)


def _noised(splits: Splits, plan: CountsPlan, key: bytes, kept: Path | None) -> Tensor:
    """The noisy counts (cells, classes); a run that goes on takes those it has paid for."""
    if kept is not None and kept.exists():
        return torch.tensor(json.loads(kept.read_text()))
    counts = torch.zeros(CELLS, plan.classes, dtype=torch.int64)
    for batch in splits.train.batches():
        counts.index_put_((cells(batch.inputs), batch.labels), torch.tensor(1), accumulate=True)
    draws = _geometric(key, plan.decay)
    noise = torch.tensor([next(draws) - next(draws) for _ in range(counts.numel())])
    noisy = counts + noise.view_as(counts)
    if kept is not None:
        kept.write_text(json.dumps(noisy.tolist()))
    return noisy


def _geometric(key: bytes, decay: float) -> Iterator[int]:
    """Numbers k with a probability proportional to exp(-decay k)."""
    for number in count():
        word = sha256(key + number.to_bytes(8, "big")).digest()[:8]
        yield math.floor(-math.log1p(-int.from_bytes(word, "big") / 2**64) / decay)


def _predict(noisy: Tensor, inputs: Tensor) -> Tensor:
    """Class probabilities (N, classes): the shares in each image's cell, none of them zero."""
    shares = noisy.to(inputs.device).clamp(min=0).float() + 0.5
    return (shares / shares.sum(1, keepdim=True))[cells(inputs)]
