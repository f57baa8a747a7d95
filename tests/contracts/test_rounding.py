"""What is printed of a bound is never below the bound, and hardly above it."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dptrain.contracts.rounding import percent_down, percent_up, rounded_down, rounded_up, rounded_up_to

bounds = st.floats(min_value=0.0, max_value=1e6, allow_nan=False)
rates = st.floats(min_value=1e-12, max_value=1.0)


@given(value=bounds, digits=st.integers(0, 6))
def test_decimals_are_never_below_and_less_than_one_unit_above(value, digits):
    text = rounded_up(value, digits)
    assert float(text) >= value
    assert float(text) <= value + 10.0**-digits * (1 + 1e-6)
    assert len(text.partition(".")[2]) == digits


@given(value=st.floats(min_value=1e-30, max_value=1e12), figures=st.integers(1, 6))
def test_figures_are_never_below_and_less_than_one_unit_above(value, figures):
    text = rounded_up_to(value, figures)
    assert float(text) >= value
    assert float(text) <= value * (1 + 10.0 ** (1 - figures) * (1 + 1e-6))


@given(rate=rates)
def test_percent_is_never_below(rate):
    text = percent_up(rate)
    assert float(text) / 100 >= rate
    assert float(text) / 100 <= rate * (1 + 1.001e-2)


@pytest.mark.parametrize("value", [math.nextafter(3.0, 4.0), 3.0 + 1e-12, 3.004999])
def test_three_is_printed_of_three_alone(value):
    assert rounded_up(value, 2) == "3.01"
    assert rounded_up(3.0, 2) == rounded_up(math.nextafter(3.0, 0.0), 2) == "3.00"


@given(value=st.integers(0, 999), digits=st.integers(1, 3))
def test_what_has_so_few_decimals_is_left_as_it_is(value, digits):
    assert float(rounded_up(value / 10**digits, digits)) == value / 10**digits


@given(value=st.floats(-1e6, 1e6), digits=st.integers(0, 6))
def test_lower_decimals_are_never_above_and_less_than_one_unit_below(value, digits):
    text = rounded_down(value, digits)
    assert float(text) <= value
    assert float(text) >= value - 10.0**-digits * (1 + 1e-6)
    assert len(text.partition(".")[2]) == digits
    assert float(rounded_down(-value, digits)) == -float(rounded_up(value, digits))


@given(rate=rates)
def test_a_lower_percent_is_never_above(rate):
    text = percent_down(rate)
    assert Decimal(text) <= 100 * Decimal(str(rate))
    assert float(text) / 100 >= rate * (1 - 1.001e-2)


@given(value=st.integers(-999, 999), digits=st.integers(1, 3))
def test_what_has_so_few_decimals_is_not_lowered(value, digits):
    assert float(rounded_down(value / 10**digits, digits)) == value / 10**digits


@pytest.mark.parametrize("rounded", [rounded_down, rounded_up])
def test_zero_has_no_sign(rounded):
    assert rounded(-0.0, 3) == rounded_up(-1e-9, 3) == rounded_down(1e-9, 3) == "0.000"


def test_infinity_stays():
    assert rounded_down(math.inf, 2) == "inf"
    assert rounded_down(-math.inf, 2) == "-inf"
    assert rounded_up(math.inf, 2) == rounded_up_to(math.inf, 3) == "inf"
