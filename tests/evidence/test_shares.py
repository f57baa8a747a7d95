"""Intervals of mean shares: valid whatever the shares hang on, and not much wider than they need be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from dptrain.evidence.intervals import clopper_pearson
from dptrain.evidence.shares import mean_of_shares


@given(
    mean=st.floats(0.0, 1.0),
    count=st.integers(1, 100_000),
    confidence=st.sampled_from([0.5, 0.95, 0.9998]),
)
def test_every_mean_has_an_interval_around_it(mean: float, count: int, confidence: float) -> None:
    found = mean_of_shares(mean, count, confidence)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    turned = mean_of_shares(1.0 - mean, count, confidence)
    assert turned.low == pytest.approx(1.0 - found.high, abs=1e-9)
    assert turned.high == pytest.approx(1.0 - found.low, abs=1e-9)


@pytest.mark.parametrize("count", [5, 20, 100])
@pytest.mark.parametrize("true", [0.001, 0.01, 0.1, 0.4])
def test_shares_of_all_or_nothing_miss_no_more_than_may_be(count: int, true: float) -> None:
    held = 0.0
    for number in range(count + 1):
        found = mean_of_shares(number / count, count, 0.95)
        exact = clopper_pearson(number, count, 0.95)
        assert found.low <= exact.low + 1e-9
        assert found.high >= exact.high - 1e-9
        held += binom.pmf(number, count, true) * (found.low <= true <= found.high)
    assert held >= 0.95


@pytest.mark.parametrize("flagged", [0.01, 0.05])
def test_it_holds_where_the_queries_of_a_session_hang_together(flagged: float) -> None:
    rng, sessions, queries, turns = np.random.default_rng(0), 100, 200, 600
    true, held, held_of_queries = flagged / 2, 0, 0
    for _ in range(turns):
        # An alarm late or early in few sessions; all queries that follow it in that session are withheld.
        alarms = rng.random(sessions) < flagged
        withheld = np.round(alarms * rng.random(sessions) * queries)
        found = mean_of_shares(float(withheld.mean()) / queries, sessions, 0.95)
        held += found.low <= true <= found.high
        by_query = clopper_pearson(int(withheld.sum()), sessions * queries, 0.95)
        held_of_queries += by_query.low <= true <= by_query.high
    assert held >= 0.95 * turns
    assert held_of_queries < 0.5 * turns  # what is printed must not be this one
