"""How many bets an audit may be told to make."""

from __future__ import annotations

from dptrain.contracts import ConfigError


def check_number(guesses: int | None, there: int, what: str) -> None:
    """Raise ConfigError where more bets are asked for than there is to bet on."""
    if guesses is not None and guesses > there:
        raise ConfigError(
            f"guesses={guesses} is more than the {there} {what} that a random choice decided about; choose "
            "at most as many, or null to have it planned"
        )


def check_guesses(guesses: int | None) -> None:
    """Raise ConfigError unless bets can be split evenly over both ends; None: planned by the scoring."""
    if guesses is not None and (guesses < 2 or guesses % 2):
        raise ConfigError(f"guesses={guesses} must be an even number from 2 on, or null to have it planned")
