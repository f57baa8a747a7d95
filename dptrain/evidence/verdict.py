"""What a measured leakage may be called: one rule for every attack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dptrain.contracts import Interval, Leakage

BROKEN = "exceeds the bound: broken"
LEAKS = "leaks: above floor"
RESISTED = "resisted: not above floor, control is"
TOO_WEAK = "attack too weak to tell"
NO_CONTROL = "not above floor, no control"
NOT_SHOWN = "not shown"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How many steps of a training an attack was shown that should have seen them all."""

    steps: int
    of: int | None  # None: nobody says how many there were

    @property
    def whole(self) -> bool:
        """Whether these are all."""
        return self.steps > 0 if self.of is None else self.steps >= self.of

    def __str__(self) -> str:
        return f"the training showed {self.steps:,}{'' if self.of is None else f' of {self.of:,}'} steps"


def verdict(*, value: Interval, floor: float, control: Interval | None, bound: float | None) -> str:
    """Name what the numbers allow one to say, and no more.

    Intervals speak through their lower ends: above the bound, the implementation is wrong;
    above the floor, the release leaks. Otherwise only a control above the floor shows that
    the attack could have seen a leak.
    """
    if bound is not None and value.low > bound:
        return BROKEN
    return reading(
        above_floor=value.low > floor,
        control_above_floor=None if control is None else control.low > floor,
    )


def reading(*, above_floor: bool, control_above_floor: bool | None) -> str:
    """The same rule for tests that decide in their own way, by a p-value say; None: no control."""
    if above_floor:
        return LEAKS
    if control_above_floor is None:
        return NO_CONTROL
    return RESISTED if control_above_floor else TOO_WEAK


def as_shown(line: Leakage, shown: Shown | None) -> Leakage:
    """The line of an attack that looks on at a training, as far as it was shown its steps.

    `shown` is None for attacks that do not look on. What was found in some of the steps was found. That
    nothing was found there says nothing of the others, and of no step at all every finding is a guess.
    """
    if shown is None or shown.whole:
        return line
    if shown.steps and line.verdict.startswith((LEAKS, BROKEN)):
        return replace(line, notes=f"{line.notes}; {shown}" if line.notes else str(shown))
    return replace(line, verdict=f"{NOT_SHOWN}: {shown}")
