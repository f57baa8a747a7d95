"""What a process does that helps the first rank: its share of trainings, and its turns of other work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dptrain.contracts import DptrainError
from dptrain.training.distribution import Helper, Job, Made, Reply, Round, Step, Work, failed
from dptrain.training.leading import Call, take
from dptrain.training.ranks import Channel
from dptrain.training.sharding import ShardedJob, Shards


def help_with(channel: Channel, messages: Iterator[Any], device_of: Callable[[str], torch.device]) -> None:
    """Do what the first rank says until it needs no help any more."""
    helper: Helper | None = None
    shards: Shards | None = None
    call: Callable[[Any], Any] | None = None
    for message in messages:
        if isinstance(message, Job):
            reply = Reply()
            try:
                helper = Helper(message, channel, device_of(message.device))
            except Exception as error:
                reply, helper = failed(error), None
            channel.gather(reply)
        elif isinstance(message, Step):
            assert helper is not None, "a step is part of a training"
            helper.take(message)
        elif isinstance(message, ShardedJob):
            shards = None  # before it is as large once more
            with _ending_with_an_error(channel.rank):
                shards = Shards(message, channel, device_of(message.device), None)
                channel.gather(Reply())
        elif isinstance(message, Call):
            assert shards is not None, "what is divided is a training"
            with _ending_with_an_error(channel.rank):
                channel.gather(take(shards, message))
        elif isinstance(message, Work):
            call = message.call
        elif isinstance(message, Round):
            assert call is not None, "a round is part of work"
            channel.gather(made(call, message.items, channel.rank))


@contextmanager
def _ending_with_an_error(rank: int) -> Iterator[None]:
    """Within, a failure is said and ends this process: the others wait for what it holds, not for a reply."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, RuntimeError) or isinstance(error, DptrainError):
            print(f"error  rank {rank}: {failed(error).error}", file=sys.stderr, flush=True)
        raise RuntimeError("this process cannot go on") from error


def made(call: Callable[[Any], Any], items: Sequence[Any], rank: int) -> Made:
    """What this rank makes of its item, if there is one for it."""
    if rank >= len(items):
        return Made()
    try:
        return Made(value=call(items[rank]))
    except Exception as error:
        return Made(reply=failed(error))
