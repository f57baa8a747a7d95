"""Which canaries took part? The strongest question a one-run audit can ask of the noisy gradients.

Canaries along coordinates of their own ("Dirac") share no noise and disturb each other nowhere
(Nasr et al. 2023; Steinke, Nasr and Jagielski 2023), so that one training holds as many trials
as there are canaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dptrain.attacks.bets import Betting
from dptrain.attacks.likelihood import sampled_at
from dptrain.contracts import Access, Bets, Canaries, NoiseSeen, Observation, Release, SamplingSeen, Targets


class CanaryLikelihoods:
    """Adds up, step by step, how much likelier what was seen is if each canary takes part.

    A sampled canary shifts its coordinate, whose noise has variance s^2, by its clipped length c: at
    value x the log-likelihood ratio is log(1 - q + q exp((x - c/2) c / s^2)). The coordinates
    beside those of the canaries, where nothing was added, tell whether the noise is what it is
    said to be. Where there is no noise, each canary's batches can be counted. Memory does not grow
    with the steps.
    """

    def __init__(self, canaries: Canaries) -> None:
        self.canaries = canaries
        self.scores = torch.zeros(len(canaries), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)  # of the noise seen, over its variance
        self.blank_sums = torch.zeros(0, dtype=torch.float64)  # of each blank coordinate, over the steps
        self.counts = torch.zeros(len(canaries), dtype=torch.int64)
        self.longest: float | None = None
        self.declared: tuple[str, float] | None = None  # sampling and its rate
        self.steps = 0

    def observe(self, step: Observation) -> None:
        seen = step.undecided("canaries").double().cpu()
        length = step.lengths(self.canaries).double().cpu()
        # Without noise, some that is small beside a canary makes it all but certain whether it takes part.
        variance = step.noise_std**2 or 1e-6 * float(length.square().mean())
        exponent = (seen[self.canaries.coordinates] - length / 2) * length / variance
        self.scores += sampled_at(exponent, step.sample_rate)
        self.steps += 1
        self.declared = step.sampling, step.sample_rate
        alone = step.alone()
        if alone is not None:
            self.longest = alone if self.longest is None else max(alone, self.longest)
        if step.noise_std > 0:
            self._look_at_noise(seen / step.noise_std)
        else:
            self.counts += (seen[self.canaries.coordinates] > length / 2).long()

    def _look_at_noise(self, seen: Tensor) -> None:
        blank = torch.ones(len(seen), dtype=torch.bool)
        blank[self.canaries.coordinates] = False
        noise = seen[blank]
        if len(self.blank_sums) == 0:
            self.blank_sums = torch.zeros_like(noise)
        self.squares += noise.square().sum()
        self.blank_sums += noise

    @property
    def noise(self) -> NoiseSeen | None:
        count = len(self.blank_sums)
        if count == 0:
            return None
        return NoiseSeen(
            each=float(self.squares) / (self.steps * count),
            summed=float(self.blank_sums.square().mean()) / self.steps,
            steps=self.steps,
            coordinates=count,
        )

    @property
    def sampling(self) -> SamplingSeen | None:
        if self.declared is None or self.declared[0] != "poisson" or len(self.blank_sums):
            return None
        return SamplingSeen(counts=self.counts, steps=self.steps, sample_rate=self.declared[1])

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _REMEMBERED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in _REMEMBERED:
            setattr(self, key, state[key])


_REMEMBERED = ("scores", "squares", "blank_sums", "counts", "longest", "declared", "steps")


@dataclass(frozen=True, kw_only=True)
class CanaryAudit(Betting):
    """Bets on the canaries that the whole noisy transcript speaks most for, and against."""

    needs: ClassVar[frozenset[Access]] = frozenset({Access.TRANSCRIPT})
    game: ClassVar[str] = "audit_canaries"
    any_records: ClassVar[bool] = True  # it looks at none
    on: ClassVar[str] = "canaries"

    def watch(self, targets: Targets) -> CanaryLikelihoods:
        assert targets.canaries is not None
        return CanaryLikelihoods(targets.canaries)

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Bets:  # noqa: ARG002
        seen = release.transcript
        assert isinstance(seen, CanaryLikelihoods)
        return Bets(
            scores=seen.scores,
            guesses=self.guesses,
            noise=seen.noise,
            sampling=seen.sampling,
            longest=seen.longest,
        )
