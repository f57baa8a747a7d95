"""A service at work: a model, its guards in their order, its keys; one request at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DptrainError, OutOfQueries
from dptrain.serving.guard import Guards, Query, Refused
from dptrain.serving.inputs import Reader
from dptrain.serving.keys import ANYONE, Caller, Keys
from dptrain.serving.metrics import Metrics
from dptrain.serving.model import ServedModel
from dptrain.serving.store import Store, Writer
from dptrain.serving.transit import LEAST_BYTES, SHARE, Transit

log = logging.getLogger(__name__)

TIDY_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a single request may cost, whoever sends it."""

    body_bytes: int
    body_seconds: float
    records: int
    waiting: int  # requests that wait for the model at once
    transit_bytes: int = 2**26  # of all requests that are read, wait or are answered

    def __post_init__(self) -> None:
        if self.transit_bytes < SHARE * max(LEAST_BYTES, self.body_bytes):
            raise ConfigError(
                f"serve.transit_bytes={self.transit_bytes} must be {SHARE} times serve.body_bytes="
                f"{self.body_bytes} or more, and at least {SHARE * LEAST_BYTES}, so that one key does not "
                "keep all others out"
            )


@dataclass(kw_only=True)
class Service:
    """Answers requests for predictions; `keys` None: whoever reaches it may ask.

    One thread does all that takes long, so that guards need no locks of their own within a process.
    """

    model: ServedModel
    guards: Guards
    store: Store
    keys: Keys | None
    bounds: Bounds
    secret: bytes  # of the server
    prior: Tensor  # (columns,) or the shape of an answer: what coarse answers are
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep  # of an answer that is delayed
    metrics: Metrics = field(default_factory=Metrics)
    _waiting: Counter[ThreadPoolExecutor] = field(default_factory=Counter)
    _tidied: float = -float("inf")

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._door = ThreadPoolExecutor(1, thread_name_prefix="keys")

    @cached_property
    def transit(self) -> Transit:
        return Transit(self.bounds.transit_bytes)

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.store)

    @cached_property
    def reader(self) -> Reader:
        return Reader(forms=self.model.forms, raw=self.model.raw, most=self.bounds.records)

    async def one_at_a_time(self, work: Callable[[], Any]) -> Any:
        """Have this done in the one thread; raises Refused (503) if too many wait, or the database fails."""
        return await self._queued(self._thread, work)

    async def at_the_door(self, work: Callable[[], Any]) -> Any:
        """Have keys looked at in a thread of their own, so that strangers do not wait among callers."""
        return await self._queued(self._door, work)

    async def _queued(self, thread: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
        if self._waiting[thread] >= self.bounds.waiting:
            raise Refused(503, "busy", "Too many requests wait already; ask again later.", retry_after=1.0)
        self._waiting[thread] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except self.store.faults as error:
            log.error("the database failed: %s", type(error).__name__)  # its text may hold what was asked
            said = "What keeps the counts cannot be reached; ask again later."
            raise Refused(503, "storage", said, retry_after=1.0) from None
        finally:
            self._waiting[thread] -= 1

    def authenticate(self, header: str, scope: str) -> Caller:
        """Who sent this Authorization header; raises Refused (401, 403)."""
        if self.keys is None:
            caller: Caller | None = ANYONE
        else:
            word, _, key = header.partition(" ")
            caller = self.keys.caller(key.strip() if word.lower() == "bearer" else "")
        if caller is None:
            raise Refused(401, "key", "A valid key is needed; send it as `Authorization: Bearer KEY`.")
        if scope not in caller.scopes:
            raise Refused(403, "scope", f"This key lacks the scope {scope}.")
        if caller.locked is not None and scope == "predict":
            raise Refused(403, "locked", "This key is locked; ask whoever runs this service.")
        return caller

    def answer(self, caller: Caller, body: bytes, kind: str) -> tuple[Mapping[str, Any], float]:
        """The answer to a request, and the seconds that it is to be delayed; raises Refused.

        The model is asked before the query is counted, the count is committed before the answer is given.
        """
        at = self.clock()
        query = Query(caller=caller, inputs=torch.zeros(0), at=at)  # until its body is read, which takes time
        self.tidy(at)
        try:
            for guard in self.guards.values():
                guard.arrived(query)
            read = self.reader.read(body, kind)
            query = Query(caller=caller, inputs=read, at=at, facts=query.facts, signs=query.signs)
            for guard in self.guards.values():
                guard.before(query)
            answers = self._predictions(query)
            if not torch.isfinite(answers).all():
                raise Refused(422, "answer", "The model has no finite answer to these inputs.")
            with self._writer.writing() if self.guards else _nothing() as connection:
                for guard in self.guards.values():
                    answers = guard.after(query, answers, connection)
            for guard in self.guards.values():
                guard.kept(query)
        except Refused as why:
            self._tell(query, why)
            raise
        if query.coarse is not None:
            rows = query.coarse.view(-1, *[1] * (answers.dim() - 1))
            answers = torch.where(rows, self.prior.to(answers), answers)
        self.metrics.answered(query)
        return {"names": self.model.names, "predictions": answers.tolist()}, query.delay_seconds

    def _tell(self, query: Query, why: Refused) -> None:
        """Let the guards hear of a refusal, which it stays where the database is away."""
        try:
            with self._writer.writing() if self.guards else _nothing() as connection:
                for guard in self.guards.values():
                    guard.refused(query, why, connection)
        except self.store.faults as error:
            log.error("a refusal was not recorded: %s", type(error).__name__)

    def _predictions(self, query: Query) -> Tensor:
        """What the model says; raises Refused where it has said all that it ever will, or cannot pay."""
        try:
            return self.model.predict(query.inputs)
        except OutOfQueries as error:
            raise Refused(429, "answers", f"{str(error)[0].upper()}{str(error)[1:]}.") from None
        except DptrainError:
            if self.model.left is None:
                raise
            raise _no_ledger() from None

    def left(self) -> int | None:
        """How many answers there still are, where each is paid for; raises Refused where none can tell."""
        try:
            return None if self.model.left is None else self.model.left()
        except DptrainError:
            raise _no_ledger() from None

    def tidy(self, now: float) -> None:
        """Let the guards purge what is old, every ten minutes; one that fails is asked again then."""
        if 0.0 <= now - self._tidied < TIDY_SECONDS:  # not where a clock was set back
            return
        self._tidied = now
        for name, guard in self.guards.items():
            try:
                guard.tidy(now)
            except Exception as error:  # of whichever guard: whoever asks is answered all the same
                log.error("%s did not purge what is old: %s", name, type(error).__name__)

    async def keep_tidy(self) -> None:
        """Do that from the start on, whether anybody asks or not; without end."""
        while True:
            await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self.tidy(self.clock()))
            await asyncio.sleep(TIDY_SECONDS / 10)  # what is due is done soon after

    def close(self) -> None:
        """Let the last request finish, and let go of the database."""
        self._door.shutdown()
        self._thread.shutdown()
        self._writer.close()
        self.store.close()


def _no_ledger() -> Refused:
    said = "The ledger of answers cannot be reached; ask again later."
    return Refused(503, "storage", said, retry_after=1.0)


class _nothing:
    """No transaction, where no guard would write in it."""

    def __enter__(self) -> Any:
        return None

    def __exit__(self, *_: object) -> None:
        pass
