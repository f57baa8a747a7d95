"""One training computed by several processes: the first draws, adds noise and moves the weights, all others
compute clipped sums of the physical batches whose turn is theirs.

Sums are exact (`privacy.noisy`), so that it makes no difference to the release which process computed what.
Whatever is random is drawn by the first; whatever is written is written by it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from dptrain.contracts import ConfigError, DptrainError, Records
from dptrain.privacy.dpsgd import Engine
from dptrain.training.accumulate import add_up
from dptrain.training.augment import Augmentation
from dptrain.training.masks import Masks
from dptrain.training.ranks import Channel

CHECKED_EVERY = 50  # steps, at which the ranks' weights are compared


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training, as the other ranks need to know it."""

    model: nn.Module  # its trained part
    records: Records
    engine: Callable[..., Engine]  # of a model and an optimizer; without noise
    device: str  # its type: each rank has a device of its own
    dtype: torch.dtype
    augment: Augmentation | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step's physical batches, and the key of its masks."""

    key: bytes
    blocks: tuple[Tensor, ...]
    check: bool  # whether to tell what the weights are


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a rank says of its part: what went wrong, or the losses of its blocks."""

    error: str | None = None
    refused: bool = False  # whether what was asked for cannot be done
    losses: tuple[float, ...] = ()
    weights: str | None = None  # a hash of them


@dataclass(frozen=True, kw_only=True)
class Work:
    """A function of which the ranks are to call each with an item, until other work is said."""

    call: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Round:
    """An item for each rank, by rank; none for those beyond."""

    items: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a rank made of its item, or what went wrong."""

    value: Any = None
    reply: Reply = field(default_factory=Reply)


class Team:
    """The ranks at work on one training, as the first one leads them."""

    def __init__(
        self, channel: Channel, speaking: threading.Lock, or_lost: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """`speaking` is held while nothing else may be said; within `or_lost` a lost rank is named."""
        self.size = channel.size
        self._channel, self._speaking, self._or_lost = channel, speaking, or_lost
        self._steps = 0
        self._expected: str | None = None
        self._begun: Engine | None = None

    def begin(self, engine: Engine, model: nn.Module, key: bytes | None, blocks: Sequence[Tensor]) -> None:
        """Have the others begin with their share of these blocks, at the weights of this model."""
        assert key is not None, "masks are a step's"
        check = self._steps % CHECKED_EVERY == 0
        weights = flat(model)
        self._expected = fingerprint(weights) if check else None
        self._steps += 1
        self._speaking.acquire()
        self._begun = engine
        with self._or_lost():
            self._channel.say(Step(key=key, blocks=tuple(blocks), check=check))
            self._channel.same(weights)

    def collect(self) -> Tensor:
        """Add what the others summed up; the loss of their records. Raises DptrainError where one failed."""
        engine, self._begun = self._begun, None
        assert engine is not None, "a step is begun before it is collected"
        try:
            with self._or_lost():
                mine = torch.zeros_like(engine.sum())
                found = self._channel.gather(Reply())[1:]
                self._channel.sum(mine)
        finally:
            self._speaking.release()
        replies = accepted(found)
        if self._expected is not None and {each.weights for each in replies} != {self._expected}:
            raise DptrainError(
                "ranks: the processes have come to have different weights, so that their sums are not those "
                "of one model; report it to the maintainers"
            )
        engine.add_sum(mine)
        return mine.new_tensor(sum(sum(each.losses) for each in replies))

    def finish(self) -> None:
        """Let a step that was begun, and that something has interrupted, come to its end without a sum."""
        if self._begun is not None:
            with suppress(DptrainError), self._begun.aside():
                self.collect()


def accepted(replies: list[Reply]) -> list[Reply]:
    """These replies of the ranks after the first; raises DptrainError where one of them failed."""
    for rank, reply in enumerate(replies, 1):
        if reply.error is not None:
            raise (ConfigError if reply.refused else DptrainError)(f"rank {rank}: {reply.error}")
    return replies


def flat(model: nn.Module) -> Tensor:
    """The trained weights of a model: (parameters,)."""
    return torch.cat([each.detach().reshape(-1) for each in model.parameters() if each.requires_grad])


def fingerprint(weights: Tensor) -> str:
    return hashlib.blake2b(
        weights.cpu().contiguous().view(torch.uint8).numpy().data, digest_size=16
    ).hexdigest()


class Helper:
    """A rank's part of a training: sums of the blocks whose turn is its own."""

    def __init__(self, job: Job, channel: Channel, device: torch.device) -> None:
        self.job, self.channel, self.device = job, channel, device
        self.model = job.model.to(device, job.dtype)
        self.trained = [each for each in self.model.parameters() if each.requires_grad]
        self.engine = job.engine(self.model, SGD(self.trained, lr=0.0))

    def take(self, step: Step) -> None:
        """Compute this rank's share of a step, and reply."""
        weights = flat(self.model)
        self.channel.same(weights)
        try:
            self._follow(weights)
            reply = self._add_up(step)
        except Exception as error:
            reply = failed(error)
            self.engine.forget()
        self.channel.gather(reply)
        self.channel.sum(self.engine.sum())
        self.engine.forget()

    @torch.no_grad()
    def _follow(self, weights: Tensor) -> None:
        parts = weights.split([each.numel() for each in self.trained])
        for parameter, part in zip(self.trained, parts, strict=True):
            parameter.copy_(part.view_as(parameter))

    def _add_up(self, step: Step) -> Reply:
        job, losses = self.job, []
        self.model.train()
        masks = Masks.of_step(step.key, self.device)
        for number in range(self.channel.rank, len(step.blocks), self.channel.size):
            batch = job.records.take(step.blocks[number]).read().to(self.device, job.dtype)
            with masks.drawing(number):
                losses.append(float(add_up(self.engine, batch, job.augment)))
        return Reply(
            losses=tuple(losses),
            weights=fingerprint(flat(self.model)) if step.check else None,
        )


def failed(error: Exception) -> Reply:
    """What is said of an error: no value of a record, which an error of PyTorch's may hold."""
    refused = isinstance(error, DptrainError)
    said = str(error) if refused else f"{type(error).__name__} while it computed its share of the run"
    return Reply(error=said, refused=isinstance(error, ConfigError))
