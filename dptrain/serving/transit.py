"""What is under way: bytes of requests that are read, wait or are answered, bounded for a key and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dptrain.serving.guard import Refused

LEAST_BYTES = 65536  # that a request counts as, for the connection that it keeps
SHARE = 4  # so many keys at least can send at once


class Transit:
    """Room for the bodies of requests, a fourth of it for each key; of one thread, the event loop's."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """What all requests under way count as."""
        return self._held.total()

    @contextmanager
    def room(self, key: str, body_bytes: int) -> Iterator[None]:
        """Within, a body of this size may be held; raises Refused (429, 503) where there is no room."""
        size = max(LEAST_BYTES, body_bytes)
        if self._held[key] + size > self._most // SHARE:
            raise Refused(
                429, "transit", "Too many requests of this key are under way; ask one after another.",
                retry_after=1.0,
            )  # fmt: skip
        if self.held_bytes + size > self._most:
            raise Refused(503, "busy", "Too many requests are under way; ask again later.", retry_after=1.0)
        self._held[key] += size
        try:
            yield
        finally:
            self._held[key] -= size
            if not self._held[key]:
                del self._held[key]
