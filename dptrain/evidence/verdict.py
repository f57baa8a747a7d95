"""What a measured leakage may be called: one rule for every attack."""

from __future__ import annotations

from dptrain.contracts import Interval

BROKEN = "exceeds the bound: broken"
LEAKS = "leaks: above floor"
RESISTED = "resisted: not above floor, control is"
TOO_WEAK = "attack too weak to tell"
NO_CONTROL = "not above floor, no control"


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
