"""Sowing canaries by a coin each, before training, so that an audit can count what it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dptrain.contracts import Canaries, ConfigError

CROWDED = 10  # parameters there must be to each canary, so that most of the model stays as it was
FEWEST = 20  # canaries; fewer certify nothing


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
    """Up to `canaries` canaries, each along a parameter of its own, one in ten parameters at most.

    `rng` chooses the parameters, which are public; `coins` which canaries take part. Raises
    ConfigError below 20 canaries.
    """
    count = min(canaries, parameters // CROWDED)
    if count < FEWEST:
        raise ConfigError(
            f"evidence.canaries={canaries}: a model of {parameters} parameters has room for {count}, and "
            f"fewer than {FEWEST} certify nothing; leave out attack=audit_canaries, or choose a larger model"
        )
    return Sowing(
        canaries=Canaries(coordinates=torch.randperm(parameters, generator=rng)[:count], norm=norm),
        members=torch.rand(count, generator=coins) < 0.5,
    )
