"""Work that other processes are told of: what it needs is pickled once, and read once by each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle


class Told:
    """A function that may be called in any process of a run, and that keeps there what it has read."""

    def __init__(self, pickled: bytes, call: Callable[[Any], Any] | None = None) -> None:
        self._pickled, self._call = pickled, call

    @classmethod
    def of(cls, call: Callable[[Any], Any]) -> Told | None:
        """This function; None where others cannot be told of it, as of an attack that holds a lock."""
        try:
            return cls(cloudpickle.dumps(call), call)
        except Exception:  # whatever an object raises that does not let itself be pickled
            return None

    def __reduce__(self) -> tuple[type[Told], tuple[bytes]]:
        return Told, (self._pickled,)

    def __call__(self, item: Any) -> Any:
        if self._call is None:
            self._call = cloudpickle.loads(self._pickled)
        return self._call(item)
