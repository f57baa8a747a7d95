"""What a measured leakage may be called: one rule for every attack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dptrain.contracts import Interval, Leakage

BROKEN = "exceeds the bound: broken"
LEAKS = "leakage detected"  # the first words; what follows says how it stands with the guarantee
WITHIN = f"{LEAKS}, within the guarantee"
ABOVE = f"{LEAKS}, above the bound but not beyond doubt"
UNBOUNDED = f"{LEAKS}; no theorem bounds it"
OF_VOID = f"{LEAKS}; the guarantee is void"
RESISTED = "resisted: not above the baseline, the control is"
TOO_WEAK = "attack too weak to tell"
NO_CONTROL = "not above the baseline, no control"
NOT_SHOWN = "not shown"

# A run ends where an attack beats its bound. Attacks that reach their bound do so by chance as often as an
# interval errs, so intervals of 95 % would end one honest run in forty for each such attack.
BY_CHANCE = 1e-4  # of honest lines, how many may be called broken
BEYOND_DOUBT = 1 - 2 * BY_CHANCE  # the confidence of an interval that errs so seldom at its lower end


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


def verdict(
    *, value: Interval, floor: float, control: Interval | None, bound: float | None, beyond_doubt: bool
) -> str:
    """Name what the numbers allow one to say, and no more.

    Intervals speak through their lower ends: above the floor, the release leaks. Otherwise only a
    control above the floor shows that the attack could have seen a leak. The implementation is wrong where
    an interval of confidence BEYOND_DOUBT lies above the bound: the caller says whether it does.
    """
    return beside(
        bound is not None and value.low > bound,
        of_intervals(value=value, floor=floor, control=control, bounded=bound is not None),
        beyond_doubt=bound is not None and beyond_doubt,
    )


def beside(above_bound: bool, found: str, *, beyond_doubt: bool) -> str:
    """What was found, or that it is more than is proved: beyond doubt, or as chance may have it."""
    if beyond_doubt:
        return BROKEN
    return ABOVE if above_bound else found


def of_intervals(*, value: Interval, floor: float, control: Interval | None, bounded: bool) -> str:
    """The rule for intervals beside a floor that says nothing of a bound exceeded."""
    return reading(
        above_floor=value.low > floor,
        control_above_floor=None if control is None else control.low > floor,
        bounded=bounded,
    )


def reading(*, above_floor: bool, control_above_floor: bool | None, bounded: bool) -> str:
    """The same rule for tests that decide in their own way, by a p-value say; None: no control.

    `bounded` is whether the guarantee speaks of what was measured, and is not exceeded.
    """
    if above_floor:
        return WITHIN if bounded else UNBOUNDED
    if control_above_floor is None:
        return NO_CONTROL
    return RESISTED if control_above_floor else TOO_WEAK


def by_test(word: str, p_value: float, *, found: str, not_found: str) -> str:
    """A verdict that a test decides and no interval, in full: what was found, or was not, and its p-value."""
    same = f"{not_found} (p = {p_value:.2g})"
    return {
        UNBOUNDED: f"{UNBOUNDED}; {found} (p = {p_value:.2g})",
        RESISTED: f"resisted: {same}, the control is",
        TOO_WEAK: f"{TOO_WEAK}: {same}, nor is the control",
        NO_CONTROL: f"{same}, no control",
    }[word]


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


def kind(verdict: str) -> str:
    """Which of the verdicts a text is, whatever reason follows.

    BROKEN, ABOVE, LEAKS, RESISTED, TOO_WEAK, NOT_SHOWN or NO_CONTROL; of any other text, itself.

    >>> kind("attack too weak to tell: 10 classes could certify 69 %") == TOO_WEAK
    True
    """
    for begins, found in (
        ("exceeds", BROKEN),
        (ABOVE, ABOVE),
        ("leak", LEAKS),  # "leaks: above floor" in reports of earlier versions
        ("resisted", RESISTED),
        ("attack", TOO_WEAK),
        (NOT_SHOWN, NOT_SHOWN),
    ):
        if verdict.startswith(begins):
            return found
    return NO_CONTROL if verdict.endswith("no control") else verdict


def of_void(line: Leakage) -> Leakage:
    """The line beside a guarantee that does not hold, within which nothing can be."""
    found = line.verdict
    if kind(found) == ABOVE:  # a bound may lie below the floor
        found = of_intervals(value=line.value, floor=line.floor, control=line.control, bounded=True)
    return replace(line, verdict=found.replace(WITHIN, OF_VOID, 1) if found.startswith(WITHIN) else found)
