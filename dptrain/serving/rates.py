"""Rates: how much may be asked in so many seconds or days, by key, by tenant, and of the model as a whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from limits import RateLimitItem, parse_many
from limits.errors import ConfigurationError
from limits.storage import MovingWindowSupport, Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from dptrain.contracts import ConfigError
from dptrain.redaction import redact
from dptrain.serving.guard import Query, Refused, Started, Surroundings
from dptrain.serving.windows import Windows

MEMORY = "memory://"
# Of Redis: nothing is tried again, since a request that was lost may have been counted.
REDIS_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Limits such as 20/second and 5000/day, in records; `storage` is memory:// or redis://HOST:PORT.

    In moving windows: no span of that length ever holds more. What another limit, or guard, refuses has
    been counted all the same. In memory they begin anew with a restart, unlike budgets.
    """

    key: Sequence[str] = ()
    tenant: Sequence[str] = ()
    model: Sequence[str] = ()
    storage: str = MEMORY

    def __post_init__(self) -> None:
        for scope in ("key", "tenant", "model"):
            for limit in getattr(self, scope):
                _parsed(scope, limit)

    def start(self, surroundings: Surroundings) -> RateLimits:
        storage = _opened(self.storage)
        if surroundings.workers > 1 and isinstance(storage, Windows):
            raise ConfigError(
                f"serving.rates.storage={redact(self.storage)} counts in each of "
                f"serve.workers={surroundings.workers} processes alone; give "
                "serving.rates.storage=redis://HOST:PORT"
            )
        return RateLimits(self, surroundings.model, storage)


class RateLimits(Started):
    """Counts queries in moving windows."""

    def __init__(self, rates: Rates, model: str, storage: Storage) -> None:
        self._limiter = MovingWindowRateLimiter(storage)
        self._lock = threading.Lock()
        self._model = model
        self._limits = {
            scope: [item for limit in getattr(rates, scope) for item in _parsed(scope, limit)]
            for scope in ("key", "tenant", "model")
        }

    def arrived(self, query: Query) -> None:
        """Refuse who has nothing left, before a body is read."""
        for item, scope, names in self._all(query):
            if not self._asked(self._limiter.test, item, names, cost=1):
                raise self._refusal(item, scope, names, 1)

    def before(self, query: Query) -> None:
        """Take the query off every limit; raises Refused (429), with the seconds to wait."""
        for item, scope, names in self._all(query):
            self._take(item, scope, names, query.count)

    def tidy(self, now: float) -> None:  # noqa: ARG002
        """Forget who asks no more, where that is kept in memory."""
        if isinstance(self._limiter.storage, Windows):
            with self._lock:
                self._limiter.storage.tidy()

    def _all(self, query: Query) -> Iterator[tuple[RateLimitItem, str, tuple[str, ...]]]:
        names = {"key": query.caller.key, "tenant": query.caller.tenant, "model": "all"}
        for scope, limits in self._limits.items():
            for item in limits:
                yield item, scope, (scope, names[scope], self._model)

    def _take(self, item: RateLimitItem, scope: str, names: tuple[str, ...], asked: int) -> None:
        if asked > item.amount:
            raise Refused(
                413,
                "rate",
                f"{asked} records at once are more than the rate of this {scope}, {item}, ever allows.",
            )
        if not self._asked(self._limiter.hit, item, names, cost=asked):
            raise self._refusal(item, scope, names, asked)

    def _refusal(self, item: RateLimitItem, scope: str, names: tuple[str, ...], asked: int) -> Refused:
        wait = self._asked(self._wait, item, names, cost=asked)
        said = f"The rate of this {scope} is {item}; wait, and ask again."
        return Refused(429, "rate", said, retry_after=max(0.05, wait))

    def _wait(self, item: RateLimitItem, *names: str, cost: int) -> float:
        """In how many seconds there is room for so many records; of Redis, for one."""
        storage = self._limiter.storage
        if isinstance(storage, Windows):
            return storage.wait(item.key_for(*names), item.amount, item.get_expiry(), cost)
        return self._limiter.get_window_stats(item, *names).reset_time - time.time()

    def _asked(
        self, ask: Callable[..., Any], item: RateLimitItem, names: tuple[str, ...], **cost: int
    ) -> Any:
        """What the storage says; one that is gone refuses: nothing is answered that cannot be counted."""
        try:
            with self._lock:
                return ask(item, *names, **cost)
        except Exception:  # of whichever storage
            said = "What counts the rates cannot be reached; ask again later."
            raise Refused(503, "storage", said, retry_after=1.0) from None


def _opened(address: str) -> Storage:
    """What counts at this address; raises ConfigError where nothing can."""
    try:
        scheme = urlsplit(address).scheme  # in lower case, which the library goes by too
        if scheme == "memory":
            return Windows()
        storage = storage_from_string(address, **_options(scheme))
        if not (isinstance(storage, Storage) and isinstance(storage, MovingWindowSupport)):
            raise ConfigurationError("it holds no moving windows")
        if storage.check():
            return storage
        said = "it does not answer"
    except Exception as error:  # of whichever client
        # Where the address holds a password, the text may hold a part of it.
        shown = redact(address) == address and str(error)
        said = redact(str(error)) if shown else type(error).__name__
    raise ConfigError(f"serving.rates.storage={redact(address)} cannot be used ({said})")


def _options(scheme: str) -> dict[str, Any]:
    """How a client of Redis waits: not long, and once."""
    if not scheme.startswith("redis"):
        return {}
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    waits = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
    return {**waits, "retry": Retry(NoBackoff(), 0)}


def _parsed(scope: str, limit: str) -> list[RateLimitItem]:
    try:
        return parse_many(limit)
    except ValueError:
        raise ConfigError(
            f"serving.rates.{scope}={limit} is no rate; give such as 20/second or 5000/day"
        ) from None
