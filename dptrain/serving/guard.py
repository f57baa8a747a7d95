"""What stands between a served model and whoever asks it: guards, and the query on its way through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from sqlalchemy import Connection
from torch import Tensor

from dptrain.contracts import Forms, Inputs
from dptrain.contracts.trees import count, leaves
from dptrain.serving.keys import Caller
from dptrain.serving.store import Store


class Refused(Exception):
    """A request that is answered with an HTTP status and one sentence, which holds no input and no key.

    `reason` is one word for counters and records.
    """

    def __init__(self, status: int, reason: str, said: str, *, retry_after: float | None = None) -> None:
        super().__init__(said)
        self.status, self.reason, self.said, self.retry_after = status, reason, said, retry_after
        self.challenge = "Bearer"  # how a key is to be sent


@dataclass(kw_only=True)
class Query:
    """One request for predictions: who asks, about which inputs (N, ...), when, in seconds since the epoch.

    Guards may set `delay_seconds`, which the answer waits for, and mark rows as `coarse` (N,): those are
    answered with the prior. `facts` is what one guard tells those after it, `signs` what it found suspicious.
    """

    caller: Caller
    inputs: Inputs
    at: float
    delay_seconds: float = 0.0
    coarse: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    signs: dict[str, str] = field(default_factory=dict)

    @cached_property
    def count(self) -> int:
        """The number of inputs, each of which is one query."""
        return count(self.inputs)

    def flat(self) -> Tensor:
        """The inputs as rows (N, width)."""
        rows = [one.reshape(len(one), -1).float() for one in leaves(self.inputs)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def coarsen(self, rows: Tensor) -> None:
        """Answer these rows (N,) bool with the prior."""
        self.coarse = rows if self.coarse is None else self.coarse | rows


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a guard may use when it starts.

    `model` is the digest by which counts are kept; `classes` how many columns an answer has. `calibration`
    gives inputs (N, width) of normal traffic, or raises ConfigError; `answer` what the model says of such.
    Of `workers` processes each starts the guard anew; `recorded`: a guard after it records what is asked.
    """

    store: Store
    model: str
    classes: int
    forms: Forms
    folder: Path
    secret: bytes
    calibration: Callable[[], Tensor]
    answer: Callable[[Tensor], Tensor]
    workers: int = 1
    recorded: bool = False

    @property
    def shared(self) -> bool:
        """Whether others may write to the store too: other workers, or other machines."""
        return self.workers > 1 or not self.store.local


class Started:
    """A guard at work. Each method may raise Refused; by itself it lets everything pass."""

    def arrived(self, query: Query) -> None:
        """Look at who asks, before the body is read: the inputs are none yet."""

    def before(self, query: Query) -> None:
        """Look at a query before the model is asked."""

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:  # noqa: ARG002
        """What is answered instead of `answers` (N, ...); what is written, is so with the rest."""
        return answers

    def kept(self, query: Query) -> None:
        """Hear that what was written of a query is kept, before its answer is given."""

    def refused(self, query: Query, why: Refused, connection: Connection) -> None:
        """Hear of a query that another guard, or this one, has refused."""

    def tidy(self, now: float) -> None:
        """Do what is to be done now and then, such as purging what is old."""


class Guard(Protocol):
    """A component of conf/serving: configured, not yet at work."""

    def start(self, surroundings: Surroundings) -> Started: ...


Guards = Mapping[str, Started]  # by name, in the order they were declared in
