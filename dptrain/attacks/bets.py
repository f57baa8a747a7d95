"""How many bets an audit may be told to make."""

from __future__ import annotations

from dptrain.contracts import ConfigError


def check_guesses(guesses: int | None) -> None:
    """Raise ConfigError unless bets can be split evenly over both ends; None: planned by the judge."""
    if guesses is not None and (guesses < 2 or guesses % 2):
        raise ConfigError(f"guesses={guesses} must be an even number from 2 on, or null to have it planned")
