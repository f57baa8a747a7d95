"""Moving windows in memory, for one process: a storage of `limits` that starts no threads.

The library's own starts one each time that something is counted, a hundredth of a second later, which waits
for the interpreter's lock together with whatever is answered then. And it goes by the time of day: a clock
that is set forward would empty its windows, one that is set back would have them full for as long.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from limits.storage import MemoryStorage


class Windows(MemoryStorage):
    """When each of the last entries of each window was made; what is over is let go of as it is met."""

    # Not to be found by URL, where it would take the place of the library's own.
    STORAGE_SCHEME = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.timer.cancel()  # of windows that this class does not use
        self._entries: dict[str, deque[float]] = {}  # newest last
        self._expiries: dict[str, int] = {}

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Make so many entries, or none where the window would hold more than `limit`."""
        now, entries = monotonic(), self._entries.setdefault(key, deque())
        self._expiries[key] = expiry
        _drop(entries, now - expiry)
        if len(entries) + amount > limit:
            return False
        entries.extend([now] * amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002
        """When the oldest entry of the window was made, by no clock of the day, and how many there are."""
        now, entries = monotonic(), self._entries.get(key, deque())
        _drop(entries, now - expiry)
        return (entries[0], len(entries)) if entries else (now, 0)

    def wait(self, key: str, limit: int, expiry: int, amount: int) -> float:
        """In how many seconds so many entries can be made, where nobody makes others before."""
        entries = self._entries.get(key, deque())
        over = min(len(entries) + amount - limit, len(entries))
        return max(0.0, entries[over - 1] + expiry - monotonic()) if over > 0 else 0.0

    def tidy(self) -> None:
        """Forget what is over, such as all windows of keys that ask no more."""
        now = monotonic()
        for key, expiry in list(self._expiries.items()):
            _drop(self._entries[key], now - expiry)
            if not self._entries[key]:
                del self._entries[key], self._expiries[key]


def _drop(entries: deque[float], before: float) -> None:
    while entries and entries[0] < before:
        entries.popleft()
