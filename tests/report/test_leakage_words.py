"""Sentences about a leakage line are made from its numbers: whatever these are, the two never disagree."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dptrain.contracts import Interval, Leakage
from dptrain.evidence.verdict import (
    ABOVE,
    BROKEN,
    LEAKS,
    NO_CONTROL,
    NOT_SHOWN,
    RESISTED,
    TOO_WEAK,
    UNBOUNDED,
    WITHIN,
    Shown,
    as_shown,
    kind,
    of_void,
    verdict,
)
from dptrain.report import words
from dptrain.report.leakage_words import compatible, meaning, metric, named, readable, sentence
from dptrain.report.tables import _line as row_of

SHARES = st.integers(0, 1000).map(lambda n: n / 1000)  # as they are printed


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, value, high = sorted(draw(st.tuples(SHARES, SHARES, SHARES)))
    return Interval(value=value, low=low, high=high)


@st.composite
def lines(draw: st.DrawFn) -> Leakage:
    value, floor, bound = draw(intervals()), draw(SHARES), draw(SHARES | st.none())
    control = draw(intervals() | st.none())
    line = Leakage(
        attack="some attack",
        metric="success",
        value=value,
        floor=floor,
        control=control,
        bound=bound,
        detection_limit=draw(SHARES),
        verdict=verdict(
            value=value,
            floor=floor,
            control=control,
            bound=bound,
            beyond_doubt=bound is not None and value.low > bound and draw(st.booleans()),
        ),
        trials=draw(st.integers(1, 3000)),
    )
    steps = draw(st.none() | st.integers(0, 5))
    return line if steps is None else as_shown(line, Shown(steps=steps, of=5))


@given(line=lines(), void=st.booleans())
def test_sentence_and_numbers_agree(line: Leakage, void: bool) -> None:
    line = of_void(line) if void else line
    said = sentence(line, void=void)
    found = kind(line.verdict)
    above, controlled = line.value.low > line.floor, line.control is not None
    control_above = line.control is not None and line.control.low > line.floor

    assert ("within the guarantee" in said) == (
        found == LEAKS and not void and line.bound is not None and line.value.low <= line.bound
    )
    assert ("implementation is broken" in said) == (line.verdict == BROKEN)
    assert ("train and attack once more" in said) == (found == ABOVE and not void)
    if not void:
        assert ("theorem bounds" in said) == (line.bound is None)
        assert ("compatible with it" in said) == (
            line.verdict != BROKEN
            and line.bound is not None
            and line.value.low <= line.bound < line.value.value
        )
        if line.bound is not None:
            assert f"Proved bound: {words.at_most(line.bound)}" in said
    if found == LEAKS:
        assert above
    if "its interval does not lie above" in said:
        assert not above
    if "works on the control model" in said:
        assert control_above
        assert not above
    if found == TOO_WEAK:
        assert controlled
        assert not control_above
        if "even an attack that is always right" in said:
            assert line.detection_limit <= line.floor
            assert f"with {line.trials:,} trials" in said
        else:
            assert line.control is not None
            assert f"control model {words.measured(line.control)}" in said
            assert f"does not lie above the baseline, {words.number(line.floor)}" in said
    assert ("with no control" in said) == (found == NO_CONTROL) or controlled
    assert ("is not known" in said) == (found == NOT_SHOWN)


@given(line=lines())
def test_a_value_above_its_bound_is_explained_where_it_stands(line: Leakage) -> None:
    cell = row_of(line, void=False)[1]
    chance = line.bound is not None and line.value.low <= line.bound < line.value.value
    assert ("compatible with the bound of" in cell) == chance
    assert bool(compatible(line.value, line.bound)) == chance
    assert "compatible" not in row_of(line, void=True)[1]


def make(**changes: object) -> Leakage:
    values: dict[str, object] = {
        "attack": "a", "metric": "success", "value": Interval(value=0.5, low=0.4, high=0.6), "floor": 0.5,
        "control": Interval(value=1.0, low=0.3, high=1.0), "bound": 0.9, "detection_limit": 0.8,
        "verdict": TOO_WEAK, "trials": 10,
    }  # fmt: skip
    return Leakage(**{**values, **changes})  # type: ignore[arg-type]


def test_a_control_of_one_is_not_said_to_have_found_nothing() -> None:
    said = meaning(make())
    assert "on the control model its interval does not lie above the baseline, 0.500" in said
    few = meaning(make(detection_limit=0.3, trials=3))
    assert "with 3 trials even an attack that is always right certifies at most 0.300" in few


@pytest.mark.parametrize(
    ("given_verdict", "says"),
    [
        (f"{TOO_WEAK}: 4 classes could certify 40%, the baseline is 100%", "4 classes could certify 40%"),
        (
            f"{TOO_WEAK}: not nearer (p = 0.7), nor is the control",
            "not nearer (p = 0.7), nor is the control.",
        ),
        ("resisted: not nearer (p = 0.2), the control is", "Resisted: not nearer (p = 0.2), the control is."),
        ("not nearer (p = 0.2), no control", "Not nearer (p = 0.2); with no control"),
        (f"{NOT_SHOWN}: the training showed 0 of 3 steps", "Not shown: the training showed 0 of 3 steps."),
        (f"{UNBOUNDED}; recovers what the class looks like", "recovers what the class looks like."),
    ],
)
def test_a_verdict_s_own_reason_is_told(given_verdict: str, says: str) -> None:
    assert says in meaning(make(verdict=given_verdict))


def test_attributes_are_held_against_what_non_members_may_reach() -> None:
    details = {"non_member_accuracy_high": 0.75, "control_non_member_accuracy_high": 0.8}
    assert "does not lie above the 0.750 that the non-members may reach" in meaning(
        make(verdict=RESISTED, details=details)
    )
    assert "does not lie above the 0.800 that its own non-members may reach" in meaning(make(details=details))


def test_true_positives_are_labelled_with_the_rate_that_their_bound_holds_at() -> None:
    line = make(metric="tpr_at_fpr_0.01", details={"fpr_upper": 0.0411, "fpr_asked": 0.01}, bound=0.198)
    assert metric(line) == "true positives at an FPR up to 4.11 %"
    assert named(line) == "TPR at FPR up to 4.11 % (tpr_at_fpr_0.01)"
    assert readable(line).metric == metric(line)
    assert not re.search(r"\b1 %", metric(line) + sentence(readable(line), void=False))


def test_a_certificate_above_epsilon_that_the_curve_allows_is_explained() -> None:
    line = make(
        metric="certified_epsilon", value=Interval(value=3.2, low=3.2, high=float("inf")), floor=0.0,
        bound=3.0, verdict=WITHIN,
    )  # fmt: skip
    assert "the proved curve decides, and allows it" in sentence(line, void=False)


def test_every_kind_is_told_from_every_other() -> None:
    for word in (BROKEN, ABOVE, RESISTED, TOO_WEAK, NO_CONTROL):
        assert kind(word) == word
    assert kind(WITHIN) == kind(UNBOUNDED) == kind("leaks: above floor") == LEAKS
    assert kind("of another kind") == "of another kind"


@given(line=lines())
def test_every_verdict_of_the_table_that_is_too_weak_says_why(line: Leakage) -> None:
    cell = row_of(line, void=False)[-1]
    assert cell == line.verdict or (cell.startswith(f"{TOO_WEAK}: ") and kind(line.verdict) == TOO_WEAK)
    assert cell != TOO_WEAK
