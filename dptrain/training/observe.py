"""What an informed adversary sees of one step, made available to the observers of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dptrain.contracts import Canaries, Knowledge, Observer, Records
from dptrain.privacy.dpsgd import RecordGradients


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
    shares: Mapping[Knowledge, Tensor]  # of the sum, as the engine made it; missing: nothing was added
    remaining: Callable[[Canaries], Tensor]

    def view(self, slot: int) -> Tensor:
        return self.noise + self.own[slot] if slot in self.own else self.noise

    def contribution(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.gradients(inputs.to(self.noise), labels.to(self.noise.device))

    def lengths(self, canaries: Canaries) -> Tensor:
        return self.remaining(canaries).to(self.noise)

    def undecided(self, on: Knowledge) -> Tensor:
        return self.noise + self.shares[on] if on in self.shares else self.noise


class Watch:
    """Lets observers look at each step: at the weights before it, at the noise after it."""

    def __init__(
        self,
        observers: Sequence[Observer],
        planted: Sequence[int],
        gradients: RecordGradients,
        *,
        remaining: Callable[[Canaries], Tensor],
        sampling: str,
        sample_rate: float,
        noise_std: float,
    ) -> None:
        self.observers = observers
        self.planted = torch.tensor(planted)
        self.gradients = gradients
        self.remaining = remaining
        self.sampling = sampling
        self.sample_rate = sample_rate
        self.noise_std = noise_std

    def before(self, model: torch.nn.Module) -> None:
        """Remember the weights that this step's gradients are taken at."""
        self.gradients.follow(model)

    def after(
        self, step: int, sampled: Tensor, records: Records, noise: Tensor, shares: Mapping[Knowledge, Tensor]
    ) -> None:
        """Show the finished step to every observer; `shares`: what probes and canaries added to the sum."""
        slots = torch.isin(self.planted, sampled).nonzero().squeeze(1).tolist()
        own = {}
        if slots:
            present = records.take(self.planted[slots])
            rows = self.gradients(present.inputs.to(noise), present.labels.to(noise.device))
            own = dict(zip(slots, rows, strict=True))
        seen = NoisyStep(
            step=step,
            sampling=self.sampling,
            sample_rate=self.sample_rate,
            noise_std=self.noise_std,
            noise=noise,
            own=own,
            gradients=self.gradients,
            shares=shares,
            remaining=self.remaining,
        )
        for observer in self.observers:
            observer.observe(seen)
