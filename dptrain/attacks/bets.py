"""Attacks that bet on who took part, and how many bets they may be told to make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dptrain.contracts import ConfigError, Targets


@dataclass(frozen=True, kw_only=True)
class Betting:
    """`guesses` bets, half on either end; None: planned by the scoring, before it sees who took part."""

    on: ClassVar[str] = "probes"  # or canaries

    guesses: int | None = None

    def __post_init__(self) -> None:
        if self.guesses is not None and (self.guesses < 2 or self.guesses % 2):
            raise ConfigError(
                f"guesses={self.guesses} must be an even number from 2 on, or null to have it planned"
            )

    def check(self, targets: Targets) -> None:
        """Raise ConfigError where more bets are asked for than there is to bet on."""
        there = len(getattr(targets, self.on))
        if self.guesses is not None and self.guesses > there:
            raise ConfigError(
                f"guesses={self.guesses} is more than the {there} {self.on} that a random choice decided "
                "about; choose at most as many, or null to have it planned"
            )
