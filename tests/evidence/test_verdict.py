"""Every case of the one rule that names leakage."""

import itertools

import pytest

from dptrain.contracts import Interval
from dptrain.evidence.verdict import (
    ABOVE,
    BROKEN,
    LEAKS,
    NO_CONTROL,
    RESISTED,
    TOO_WEAK,
    UNBOUNDED,
    WITHIN,
    kind,
    reading,
    verdict,
)

FLOOR, BOUND = 0.5, 0.8
LOWS = {"below": 0.4, "at the floor": 0.5, "above": 0.6, "at the bound": 0.8, "over": 0.9}


def interval(low: float) -> Interval:
    return Interval(value=(low + 1) / 2, low=low, high=1.0)


@pytest.mark.parametrize("value", LOWS)
@pytest.mark.parametrize("control", [*LOWS, None])
@pytest.mark.parametrize("bound", [BOUND, None])
@pytest.mark.parametrize("sure", [False, True])
def test_every_case(value, control, bound, sure):
    word = verdict(
        value=interval(LOWS[value]),
        floor=FLOOR,
        control=None if control is None else interval(LOWS[control]),
        bound=bound,
        beyond_doubt=sure,
    )
    if sure and bound is not None:
        expected = BROKEN
    elif value == "over" and bound is not None:
        expected = ABOVE
    elif value in {"above", "at the bound", "over"}:
        expected = UNBOUNDED if bound is None else WITHIN
    elif control is None:
        expected = NO_CONTROL
    elif control in {"below", "at the floor"}:
        expected = TOO_WEAK
    else:
        expected = RESISTED
    assert word == expected


def test_a_control_over_the_bound_is_no_breach():
    line = {"value": interval(0.4), "floor": FLOOR, "control": interval(0.9), "bound": BOUND}
    assert verdict(**line, beyond_doubt=False) == RESISTED


def test_a_bound_below_the_floor_still_breaks():
    line = {"value": interval(0.4), "floor": FLOOR, "control": None, "bound": 0.1}
    assert verdict(**line, beyond_doubt=True) == BROKEN
    assert verdict(**line, beyond_doubt=False) == ABOVE


def test_what_stands_above_its_bound_is_a_leak_of_a_kind_of_its_own():
    assert kind(ABOVE) == ABOVE
    assert ABOVE.startswith(LEAKS)


def test_no_verdict_says_private():
    for above, control in itertools.product((True, False), (True, False, None)):
        assert "private" not in reading(above_floor=above, control_above_floor=control, bounded=True)
