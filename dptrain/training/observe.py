"""What an informed adversary sees of one step, made available to the observers of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dptrain.contracts import Canaries, Inputs, Observer, Records
from dptrain.contracts.trees import moved
from dptrain.privacy.banded import GradientPlan
from dptrain.privacy.dpsgd import RecordGradients


@dataclass(kw_only=True)
class Shares:
    """What the randomly assigned ones added to a sum, as the engine made it; nothing: not sampled."""

    of: dict[str, Tensor] = field(default_factory=dict)  # probes, canaries
    alone: Tensor | None = None  # what a single probe added
    planted: dict[int, Tensor] = field(default_factory=dict)  # by index, where copies of records are random


@dataclass(frozen=True, kw_only=True)
class NoisyStep:
    """One step's noise, and what each planted record added to the sum if it was sampled.

    This object knows the truth; `view` tells of it only what an adversary can subtract their
    way to who knows every record, and every sampled index, but those of one slot.
    """

    step: int
    sampling: str
    sample_rate: float
    noise_std: float
    noise: Tensor
    own: dict[int, Tensor]
    gradients: RecordGradients
    features: Callable[[Inputs], Any]
    shares: Shares
    max_grad_norm: float
    remaining: Callable[[Canaries], Tensor]

    def view(self, slot: int) -> Tensor:
        return self.noise + self.own[slot] if slot in self.own else self.noise

    def contribution(self, inputs: Inputs, labels: Tensor) -> Tensor:
        device, dtype = self.noise.device, self.noise.dtype
        return self.gradients(self.features(moved(inputs, device, dtype)), moved(labels, device, dtype))

    def lengths(self, canaries: Canaries) -> Tensor:
        return self.remaining(canaries).to(self.noise)

    def alone(self) -> float | None:
        if self.shares.alone is None or math.isinf(self.max_grad_norm):
            return None
        return float(self.shares.alone.norm()) / self.max_grad_norm

    def undecided(self, on: Literal["probes", "canaries"]) -> Tensor:
        share = self.shares.of.get(on)
        return self.noise if share is None else self.noise + share


class Watch:
    """Lets observers look at each step: at the weights before it, at the noise after it.

    `features` turns what an observer asks about into what the trained part of the model takes.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        planted: Sequence[int],
        gradients: RecordGradients,
        *,
        remaining: Callable[[Canaries], Tensor],
        plan: GradientPlan,
        features: Callable[[Inputs], Any] = lambda inputs: inputs,
    ) -> None:
        self.observers = observers
        self.planted = torch.tensor(planted)
        self.gradients = gradients
        self.remaining = remaining
        self.plan = plan
        self.features = features

    def before(self, model: torch.nn.Module) -> None:
        """Remember the weights that this step's gradients are taken at."""
        self.gradients.follow(model)

    def after(self, step: int, sampled: Tensor, records: Records, noise: Tensor, shares: Shares) -> None:
        """Show the finished step to every observer; `shares`: what probes and canaries added to the sum."""
        slots = torch.isin(self.planted, sampled).nonzero().squeeze(1).tolist()
        own = {
            slot: shares.planted[index]
            for slot, index in enumerate(self.planted.tolist())
            if index in shares.planted
        }
        if slots and not own:
            present = records.take(self.planted[slots]).to(noise.device, noise.dtype)
            rows = self.gradients(present.inputs, present.labels)
            own = dict(zip(slots, rows, strict=True))
        seen = NoisyStep(
            step=step,
            sampling=self.plan.sampling,
            sample_rate=self.plan.sample_rate,
            noise_std=0.0 if math.isinf(self.plan.max_grad_norm) else self.plan.noise_std,
            max_grad_norm=self.plan.max_grad_norm,
            noise=noise,
            own=own,
            gradients=self.gradients,
            features=self.features,
            shares=shares,
            remaining=self.remaining,
        )
        for observer in self.observers:
            observer.observe(seen)
