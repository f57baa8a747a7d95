"""Which probes took part? A one-run audit of natural records, asked of the noisy gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dptrain.attacks.bets import Betting
from dptrain.attacks.likelihood import sampled_at
from dptrain.contracts import Access, Bets, ConfigError, Observation, Records, Release, Targets


class ProbeLikelihoods:
    """Adds up, on every `every`-th step, how much likelier what was seen is if each probe takes part.

    A sampled probe with clipped gradient g shifts the noise, of variance s^2, by g. The view of
    all of them, less what they add in expectation (each a member with chance one half, sampled
    with chance q), counts log(1 - q + q exp((<view, g> - |g|^2 / 2) / s^2)).
    """

    def __init__(self, probes: Records, *, every: int, gradient_elements: int) -> None:
        self.probes = probes
        self.every = every
        self.gradient_elements = gradient_elements
        self.scores = torch.zeros(len(probes), dtype=torch.float64)

    def observe(self, step: Observation) -> None:
        if (step.step - 1) % self.every:
            return
        view = step.undecided("probes")
        chunks = torch.arange(len(self.probes)).split(max(1, self.gradient_elements // view.numel()))
        kept = self._gradients(step, chunks[0]) if len(chunks) == 1 else None

        def rows(chunk: Tensor) -> Tensor:
            return self._gradients(step, chunk) if kept is None else kept

        expected = torch.zeros_like(view)
        for chunk in chunks:
            expected += rows(chunk).sum(0) * (step.sample_rate / 2)
        for chunk in chunks:
            gradients = rows(chunk)
            energy = gradients.square().sum(-1).double()
            # Without noise, some that is small beside any gradient.
            variance = step.noise_std**2 or 1e-6 * float(energy.mean()) + 1e-30
            # A probe's own part of what is expected was taken off with the rest: give it back.
            shifted = (gradients @ (view - expected)).double() + energy * (step.sample_rate / 2)
            self.scores[chunk] += sampled_at((shifted - energy / 2) / variance, step.sample_rate).cpu()

    def _gradients(self, step: Observation, chosen: Tensor) -> Tensor:
        some = self.probes.take(chosen)
        return step.contribution(some.inputs, some.labels)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores = state["scores"]


@dataclass(frozen=True, kw_only=True)
class GradientAudit(Betting):
    """Bets on the probes that the noisy gradients speak most for, and against.

    `gradient_elements` bounds the memory for probes' gradients (numbers held at once); where they
    do not fit together, each is computed twice.
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.TRANSCRIPT})
    game: ClassVar[str] = "audit_records"
    any_labels: ClassVar[bool] = True

    every: int = 4  # steps
    gradient_elements: int = 50_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ConfigError(f"every={self.every} must be a number of steps, 1 or more")

    def watch(self, targets: Targets) -> ProbeLikelihoods:
        assert targets.probes is not None
        return ProbeLikelihoods(targets.probes, every=self.every, gradient_elements=self.gradient_elements)

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Bets:  # noqa: ARG002
        seen = release.transcript
        assert isinstance(seen, ProbeLikelihoods)
        return Bets(scores=seen.scores, guesses=self.guesses)
