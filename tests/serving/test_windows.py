"""Moving windows in memory: the library's answers, without its threads."""

from __future__ import annotations

import threading
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.storage import MemoryStorage, storage_from_string

from dptrain.serving.windows import Windows

# No pauses add up to whole seconds: of an entry at the very end of a window the library is of two minds.
PAUSES = st.integers(1, 3000).map(lambda count: count / 1000 + 1.3e-6)
STEPS = st.lists(st.tuples(PAUSES, st.integers(1, 6)), max_size=40)


CLOCK = "dptrain.serving.windows.monotonic"


@pytest.fixture(scope="module")
def other():
    return MemoryStorage()


@given(steps=STEPS, limit=st.integers(1, 12), expiry=st.integers(1, 5))
def test_it_counts_as_the_storage_of_the_library_does(other, steps, limit, expiry):
    other.reset()
    other.timer.cancel()
    mine = Windows()
    unscheduled = mock.patch.object(other, "_MemoryStorage__schedule_expiry")
    with (
        mock.patch("time.time", return_value=1000.0) as theirs,
        mock.patch(CLOCK, return_value=1000.0) as clock,
        unscheduled,
    ):
        for pause, amount in steps:
            clock.return_value += pause
            theirs.return_value = clock.return_value
            assert mine.acquire_entry("w", limit, expiry, amount) == other.acquire_entry(
                "w", limit, expiry, amount
            )
            began, held = other.get_moving_window("w", limit, expiry)
            assert mine.get_moving_window("w", limit, expiry)[1] == held
            if held:
                assert mine.get_moving_window("w", limit, expiry)[0] == began


def test_it_starts_no_thread():
    storage = Windows()
    storage.timer.join()
    before = threading.active_count()
    for _ in range(100):
        assert storage.acquire_entry("w", 1000, 60)
    assert threading.active_count() == before


def test_windows_of_which_nothing_is_left_are_forgotten():
    storage = Windows()
    with mock.patch(CLOCK, return_value=1000.0) as clock:
        storage.acquire_entry("old", 5, 10)
        clock.return_value = 1011.0
        storage.acquire_entry("new", 5, 10)
        storage.tidy()
    assert set(storage._entries) == set(storage._expiries) == {"new"}


@pytest.mark.parametrize("day", [-86400.0, 86400.0])
def test_a_clock_of_the_day_that_is_set_changes_nothing(day):
    storage = Windows()
    assert storage.acquire_entry("w", 2, 60, 2)
    with mock.patch("time.time", return_value=time.time() + day):
        assert not storage.acquire_entry("w", 2, 60)
        assert 0 < storage.wait("w", 2, 60, 1) <= 60


def test_the_library_s_own_is_still_found_by_its_url():
    assert type(storage_from_string("memory://")) is MemoryStorage
