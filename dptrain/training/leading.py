"""A training that is divided among processes, as the first of them leads it: an engine like any other."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, DptrainError, Inputs
from dptrain.privacy.made_up import MadeUp
from dptrain.privacy.noise.source import NoiseSource
from dptrain.training.checkpoint import SHARDS
from dptrain.training.distribution import Reply, accepted
from dptrain.training.ranks import Channel
from dptrain.training.sharding import Shards


@dataclass(frozen=True, kw_only=True)
class Call:
    """What all processes are to do with their shards, at the same time as the first."""

    name: str
    given: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()


class Leader:
    """The engine and the team of a training of which each process holds some shards."""

    def __init__(
        self,
        shards: Shards,
        channel: Channel,
        speaking: threading.Lock,
        or_lost: Callable[[], AbstractContextManager[None]],
        noise: NoiseSource | None,
        blank: nn.Module,
    ) -> None:
        """`blank` is the model as one process has it, with any weights."""
        self.shards, self.size = shards, channel.size
        self.model, self.optimizer = shards.model, shards.optimizer
        self._channel, self._speaking, self._or_lost, self._noise = channel, speaking, or_lost, noise
        self._blank = blank
        self._begun = False

    # As a team

    def begin(self, _engine: object, _model: nn.Module, key: bytes | None, blocks: Sequence[Tensor]) -> None:
        """Have the others begin with their share of these blocks, with masks of this key."""
        self._speaking.acquire()
        self._begun = True
        with self._or_lost():
            self._channel.say(Call(name="add_blocks", given=(key, tuple(blocks))))

    def collect(self) -> Tensor:
        """The loss of the others' records, once their shares are added up."""
        try:
            with self._or_lost():
                replies = accepted(self._channel.gather(Reply())[1:])
        finally:
            self._begun = False
            self._speaking.release()
        return torch.tensor(sum(sum(each.losses) for each in replies))

    def finish(self) -> None:
        """Where something has interrupted a step, the others wait for layers that never come: leave them."""
        if self._begun:
            self._begun, self._channel.broken = False, True
            self._speaking.release()

    # As an engine

    def accumulate(self, inputs: Inputs, labels: Tensor, copies: int = 1) -> Tensor:
        engine = self.shards.engine
        if len(labels) == 0:
            return torch.zeros((), device=labels.device)
        if self._begun:  # the others are at their own
            return engine.accumulate(inputs, labels, copies)
        with self._said("idle"):
            return engine.accumulate(inputs, labels, copies)

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        with self._said("add_gradients", None):
            self.shards.add_gradients(gradients)

    def total(self) -> Tensor:
        return self.sum().to(self.shards.job.dtype)

    def sum(self) -> Tensor:
        found: Tensor = self._all("sum")
        return found.to(self.shards.device)

    def add_sum(self, flat: Tensor) -> None:
        with self._said("add_gradients", None):
            self.shards.engine.add_sum(flat)

    def seal(self) -> bytes | None:
        if self._noise is None:
            return None
        keys = tuple(self._noise.seal_of_part(number) for number in range(self.size))
        return self._noise.seal(self._all("seal", keys))

    def forget(self) -> None:
        self._all("forget")

    @contextmanager
    def aside(self) -> Iterator[None]:
        self._all("put_aside")
        try:
            yield
        finally:
            self._all("put_back")

    def update(self) -> None:
        key = None if self._noise is None else self._noise.next_key()
        self._all("update", key, [group["lr"] for group in self.optimizer.param_groups])

    def keep_noise(self) -> None:
        self._all("keep_noise")

    def noise(self) -> Tensor:
        found: Tensor = self._all("noise")
        return found.to(self.shards.device)

    def refuse_wrong(self, rows: MadeUp, *, draws: bool, clipping: str) -> None:
        """Raise ConfigError where gradients of rows that are no record are not those of plain autograd."""
        if problem := self._all("wrong", rows, draws, clipping):
            raise ConfigError(f"performance.sharding=fsdp2: {problem}; use performance.sharding=none")

    # As what a session holds

    def released(self) -> nn.Module:
        """The model as one process has it, with what would be released now: weights, or their averages."""
        return self._with(averaged=True)

    def current(self) -> nn.Module:
        """The same with the weights that are trained."""
        return self._with(averaged=False)

    def save(self, folder: Path, paid: int) -> dict[str, Any]:
        """Write all shards into a new folder of this one; what a checkpoint needs to find them again."""
        name = f"{SHARDS}{paid}-{secrets.token_hex(4)}"
        self._all("save", str(folder / name))
        groups = [{k: v for k, v in each.items() if k != "params"} for each in self.optimizer.param_groups]
        return {"folder": name, "averaged": self.shards.averaged, "groups": groups}

    def load(self, folder: Path, kept: dict[str, Any]) -> None:
        """Take what was saved; raises DptrainError where it cannot be read."""
        path = folder / kept["folder"]
        if not (path / ".metadata").exists():
            raise DptrainError(
                f"resume={folder}: {kept['folder']} is not there or not whole; start the run anew: nothing "
                "of it was released"
            )
        self._all("load", str(path), kept["averaged"])
        for group, before in zip(self.optimizer.param_groups, kept["groups"], strict=True):
            group.update(before)

    def _with(self, *, averaged: bool) -> nn.Module:
        weights = self._all("weights", averaged=averaged)
        self._blank.load_state_dict(weights, strict=False)  # buffers are as they came
        return self._blank

    def _all(self, name: str, *given: Any, **named: Any) -> Any:
        """Have every process do this; what it gives in the first."""
        with self._said(name, *given, **named):
            return getattr(self.shards, name)(*given, **named)

    @contextmanager
    def _said(self, name: str, *given: Any, **named: Any) -> Iterator[None]:
        """Within, all others do this; afterwards they have done it."""
        with self._speaking, self._or_lost():
            self._channel.say(Call(name=name, given=given, named=tuple(named.items())))
            self._channel.broken = True  # until this process has done its part
            yield
            self._channel.broken = False
            accepted(self._channel.gather(Reply())[1:])


def take(shards: Shards, call: Call) -> Reply:
    """Do as the first process says, in another; raises what it raises, for then the others cannot go on."""
    found = getattr(shards, call.name)(*call.given, **dict(call.named))
    return Reply(losses=found if call.name == "add_blocks" else ())
