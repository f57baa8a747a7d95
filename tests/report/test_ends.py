"""What is printed of an interval holds the interval, and of a certificate no more than is certified."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dptrain.contracts import Interval, Leakage, Report
from dptrain.evidence.verdict import ABOVE, BROKEN, RESISTED, UNBOUNDED, WITHIN
from dptrain.report import answers, sentences, tables, words
from dptrain.report.console_tables import _leakage as console_rows
from dptrain.report.leakage_words import digits, sentence

UNIT = 1e-12  # to which ends are computed


def read(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-").replace("+", "").replace("∞", "inf"))


def ends(text: str) -> tuple[float, float]:
    low, _, high = text.partition("[")[2].partition("]")[0].partition(", ")
    return read(low), read(high)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, value, high = sorted(draw(st.tuples(*[st.floats(-5000, 5000) | st.floats(-1, 1)] * 3)))
    return Interval(value=value, low=low, high=high)


@given(found=intervals())
def test_ends_are_rounded_outwards(found: Interval) -> None:
    for text in (words.measured(found), words.difference(found)):
        low, high = ends(text)
        assert low <= found.low + UNIT
        assert found.high - UNIT <= high
        assert low <= read(text.partition(" [")[0]) <= high


@given(value=st.integers(-999, 999))
def test_ends_of_so_few_decimals_stay(value: int) -> None:
    end = value / 1000
    found = Interval(value=end, low=end, high=end)
    assert ends(words.interval(found)) == ends(words.difference(found)) == (end, end)


def test_rounding_of_a_computation_is_no_part_of_an_end() -> None:
    assert words.interval(Interval(value=0.3, low=-1e-17, high=0.1 + 0.2)) == "[0.000, 0.300]"


def test_a_certificate_is_not_told_higher_than_it_is() -> None:
    assert words.measured(Interval(value=1.4996, low=1.4996, high=math.inf)) == "1.499 [1.499, ∞]"


def line_of(low: float, *, floor: float, verdict: str, bound: float | None = None) -> Leakage:
    return Leakage(
        attack="membership loss",
        metric="auc",
        value=Interval(value=low + 2e-4, low=low, high=low + 0.1),
        floor=floor,
        control=None,
        bound=bound,
        detection_limit=0.9,
        verdict=verdict,
        trials=1000,
    )


NEAR = (
    line_of(0.50046, floor=0.5, verdict=UNBOUNDED),
    line_of(0.12555, floor=0.1255, verdict=UNBOUNDED),
    line_of(0.0004, floor=0.0, verdict=WITHIN, bound=3.0),
    line_of(0.57801, floor=0.5, verdict=ABOVE, bound=0.5780),
    line_of(0.57801, floor=0.5, verdict=BROKEN, bound=0.577999),
)


@pytest.mark.parametrize("line", NEAR)
def test_what_lies_above_its_baseline_or_bound_is_printed_so(report: Report, line: Leakage) -> None:
    report = dataclasses.replace(report, leakage=[line])
    row = tables.leakage(report).rows[0]
    low, _ = ends(row[1])
    assert low > read(row[2])
    (console,) = console_rows(report)
    assert words.interval(line.value, digits(line)) in console.measured.plain
    told = [sentence(line, void=False), answers.seen(report)]
    for text in told:
        assert words.low_end(line.value.low, digits(line)) in text
        assert f"baseline {words.number(line.floor, digits(line))}" in text
    if line.bound is not None and line.value.low > line.bound:
        assert low > read(row[4]) >= line.bound


def test_others_are_told_to_three_decimals() -> None:
    assert digits(line_of(0.49, floor=0.5, verdict=RESISTED)) == 3
    assert digits(line_of(0.6, floor=0.5, verdict=UNBOUNDED)) == 3


def test_of_further_numbers_upper_ends_go_up_and_certificates_down() -> None:
    line = dataclasses.replace(
        NEAR[0], details={"fpr_upper": 0.03701, "steinke": 1.2999, "auc": 0.5996, "trials": 12.0}
    )
    said = sentences.remarks(line)
    assert "false-positive rate at most 0.038" in said
    assert "(2023) 1.299" in said
    assert "AUC 0.600" in said
    assert "trials 12" in said


def test_the_headline_says_how_many_findings_chance_explains(report: Report) -> None:
    leak, none = NEAR[0], line_of(0.4, floor=0.5, verdict=RESISTED)
    found = dataclasses.replace(report, leakage=[leak, *[none] * 13])
    clause = "if nothing leaked, chance alone would be expected to make at most 0.7 of them say so"
    told = f"1 of 14 measurements found leakage above the baseline ({clause})"  # 5 % of each
    assert told in sentences.short(found)
    nothing = dataclasses.replace(report, leakage=[none] * 14)
    assert "chance" not in sentences.short(nothing)
