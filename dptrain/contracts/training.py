"""The surroundings of a training, and what can train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dptrain.contracts.privacy import Budget, Guarantee, Plan
from dptrain.contracts.randomness import Streams
from dptrain.contracts.records import Canaries, Splits
from dptrain.contracts.release import Access, Observer, Release
from dptrain.contracts.served import Served


class Tracker(Protocol):
    """Where parameters, metrics and files of a run go."""

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metric(self, name: str, value: float, step: int = 0) -> None: ...

    def artifact(self, path: Path, folder: str | None = None) -> None: ...

    def data(self, name: str, counts: Mapping[str, int]) -> None: ...

    def model(self, model: Served) -> None: ...


class Progress(Protocol):
    """Called after each step, on behalf of the person who waits."""

    def __call__(self, *, done: int, total: int, epsilon: float) -> None: ...


class Kept(Protocol):
    """Features that a frozen part makes of records, by name, kept from one training to the next."""

    def once(self, names: Sequence[bytes], make: Callable[[Tensor], Tensor]) -> Tensor:
        """The features of these names (n, ...); `make` is asked for the positions that are new (m,)."""

    def missing(self, names: Sequence[bytes]) -> int:
        """How many features of these names would have to be made."""


class Ranks(Protocol):
    """Processes that compute a run together, of which this is the first."""

    @property
    def size(self) -> int: ...

    @property
    def way(self) -> str:
        """By what way they reach each other, to end a sentence with."""

    @property
    def sharded(self) -> bool:
        """Whether each of them holds a part of what is trained."""

    def team(self, job: object) -> AbstractContextManager[Any]:
        """Within, all of them work on this training; what leads them."""

    def shards(
        self, job: object, model: nn.Module, *, device: torch.device, noise: Any
    ) -> AbstractContextManager[Any]:
        """Within, all of them hold parts of this training of a model; what leads them."""

    def each(self, call: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """What this function makes of each of these items, several at a time, each by one process."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of one training: randomness, place, onlookers."""

    streams: Streams
    tracker: Tracker
    device: torch.device
    dtype: torch.dtype = torch.float32
    bfloat16: bool = False  # whether trainings compute forward and backward passes in it
    folder: Path | None = None  # where checkpoints go; None: this training is not resumable
    planted: tuple[int, ...] = ()  # training index of the record in each slot
    probed: tuple[int, ...] = ()  # training index of each probe that is trained on
    canaries: Canaries | None = None  # that take part, numbered after the training records
    observers: tuple[Observer, ...] = ()
    progress: Progress | None = None
    features: Kept | None = None  # of records, kept from one training to the next
    ranks: Ranks | None = None  # that compute it together; None: this process alone

    @property
    def arithmetic(self) -> str:
        """What tells trainings apart whose numbers are of other precision, for keys of what is kept."""
        return f"bfloat16, {self.dtype}" if self.bfloat16 else str(self.dtype)

    def trained_at_once(self, epsilon: float) -> None:
        """Show the progress of a training without steps, which is over, and what it has spent."""
        if self.progress is not None:
            self.progress(done=0, total=1, epsilon=0.0)
            self.progress(done=1, total=1, epsilon=epsilon)


class Mechanism(Protocol):
    """A way to turn records into a release, and to prove something about it.

    `offers` says what can be seen of its models and trainings: some of Access. One that offers the
    TRANSCRIPT shows each of its steps to every observer of the context. One may have
    `trial(model, splits, budget, context, *, plan, batch, audit)`, which trains as `fit` does, in batches of
    about so many units, until `context.progress` raises; by it the time of a training is told. One may have
    `control(settings)`, itself without privacy, in place of a training without clipping and noise, and
    `declare(splits, rng)`, which is asked for the splits, before anything is assigned, with what it is told
    to take to be public. `withheld` may say, by Access, why something is not offered, and
    `draws(model, splits, plan)` how many normal numbers `fit` adds, whose cost a sweep counts; where it does
    not, the most is taken that any training may.
    """

    @property
    def offers(self) -> frozenset[Access]: ...

    def prepare(self, model: nn.Module, splits: Splits) -> nn.Module:
        """The model as this mechanism can train it on such records; raises ConfigError where it cannot.

        Called before anything is spent or written, and again by `fit`. It looks at no record: `splits` says
        what inputs are like.
        """

    def plan(self, splits: Splits, budget: Budget) -> Plan | None:
        """What `fit` will do; None if it promises nothing."""

    def fit(
        self, model: nn.Module, splits: Splits, budget: Budget, context: Context
    ) -> tuple[Release, Guarantee]:
        """Spend the budget: a release that holds what the mechanism offers, and what is proved of it.

        A run that goes on calls it again with the same `context.folder`: what was paid for must be found
        there, since to draw noise anew would be to pay again.
        """
