"""Work that other processes are told of: what it needs is pickled once, and read once by each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle


class RemoteCall:
    """A function that any process of a run may call; what it needs is read there once, and kept."""

    def __init__(self, pickled: bytes, call: Callable[[Any], Any] | None = None) -> None:
        self._pickled, self._call = pickled, call

    @classmethod
    def of(cls, call: Callable[[Any], Any]) -> RemoteCall | None:
        """This function; None where others cannot be told of it, as of an attack that holds a lock."""
        try:
            return cls(cloudpickle.dumps(call), call)
        except Exception:  # whatever an object raises that does not let itself be pickled
            return None

    def __reduce__(self) -> tuple[type[RemoteCall], tuple[bytes]]:
        return RemoteCall, (self._pickled,)

    def __call__(self, item: Any) -> Any:
        if self._call is None:
            self._call = cloudpickle.loads(self._pickled)
        return self._call(item)
