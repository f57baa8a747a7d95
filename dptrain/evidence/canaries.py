"""Sowing canaries by a coin each, before training, so that an audit can count what it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dptrain.contracts import Canaries

CROWDED = 4  # parameters there must be to each canary, so that most of the model stays as it was


@dataclass(frozen=True, kw_only=True)
class Sowing:
    """Canaries, and the secret of which take part; only the judge of an audit may see `members`."""

    canaries: Canaries
    members: Tensor  # (canaries,) bool

    @property
    def sown(self) -> Canaries:
        """Those that take part."""
        return replace(self.canaries, coordinates=self.canaries.coordinates[self.members])

    def scaled(self, factor: float) -> Sowing:
        """The same canaries and coins, each gradient this much as long."""
        return replace(self, canaries=replace(self.canaries, norm=self.canaries.norm * factor))


def sow(
    parameters: int, canaries: int, *, norm: float, rng: torch.Generator, coins: torch.Generator
) -> Sowing:
    """Up to `canaries` canaries, each along a parameter of its own, one in four parameters at most.

    `rng` chooses the parameters, which are public; `coins` which canaries take part.
    """
    count = max(1, min(canaries, parameters // CROWDED))
    return Sowing(
        canaries=Canaries(coordinates=torch.randperm(parameters, generator=rng)[:count], norm=norm),
        members=torch.rand(count, generator=coins) < 0.5,
    )
