"""By what a training is computed: processes of which each has the model, or that divide it among them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dptrain.contracts import ConfigError, Context, Records, Splits
from dptrain.contracts.randomness import KEY_BYTES
from dptrain.contracts.trees import moved
from dptrain.privacy.agreement import ROWS_AT_MOST, Chosen
from dptrain.privacy.dpsgd import Engine
from dptrain.privacy.made_up import MadeUp, vocabulary_of
from dptrain.privacy.noise.banded import BandedNoise
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.sharded import ByShards, ShardedDPSGD
from dptrain.privacy.sharded_agreement import layout_of
from dptrain.tasks import task_of
from dptrain.training.distribution import Job, Team
from dptrain.training.features import Trained
from dptrain.training.leading import Leader
from dptrain.training.schedule import make_average
from dptrain.training.settings import Settings
from dptrain.training.sharded_plain import ShardedPlain
from dptrain.training.sharding import ShardedJob, without_values


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a training is computed with; its engine is made last, when the model is as it goes on."""

    model: nn.Module
    optimizer: Optimizer
    engine: Callable[[], Engine]
    average: AveragedModel | None = None
    team: Team | Leader | None = None
    shards: Leader | None = None


@contextmanager
def in_each(
    trained: Trained,
    splits: Splits,  # noqa: ARG001
    context: Context,
    settings: Settings,
    engine: Callable[..., Engine],
    *,
    noise: NoiseSource | None,
    clipping: str,  # noqa: ARG001
) -> Iterator[Means]:
    """The whole model in this process, and in each of those that compute with it."""
    optimizer = settings.optimizer(trained.part.parameters())
    average = make_average(trained.part, settings.average_decay) if settings.average_decay > 0 else None
    job = Job(
        model=copy.deepcopy(trained.part) if context.ranks is not None else trained.part,
        records=trained.splits.train,
        # They add none: the key is nobody's.
        engine=engine if noise is None else partial(engine, generator=NoiseSource(bytes(KEY_BYTES))),
        device=context.device.type,
        dtype=context.dtype,
        augment=settings.augmentation,
    )
    with nullcontext() if context.ranks is None else context.ranks.team(job) as team:
        yield Means(
            model=trained.part,
            optimizer=optimizer,
            average=average,
            engine=partial(
                engine, trained.part, optimizer, **({} if noise is None else {"generator": noise})
            ),
            team=team,
        )


@contextmanager
def divided_among(
    trained: Trained,
    splits: Splits,
    context: Context,
    settings: Settings,
    engine: Callable[..., Engine],
    *,
    noise: NoiseSource | None,
    clipping: str,
) -> Iterator[Means]:
    """A part of the model in each process; the whole waits in this one, in the memory of its machine."""
    assert context.ranks is not None, "there are processes to divide it among"
    if isinstance(noise, BandedNoise):
        raise ConfigError(
            "performance.sharding=fsdp2 draws each step's noise by itself; set mechanism.noise=independent, "
            "or performance.sharding=none"
        )
    if context.bfloat16:
        raise ConfigError(
            "performance.sharding=fsdp2 computes in single precision or double; set dtype=float32, "
            "or performance.sharding=none"
        )
    task, train = task_of(splits), trained.splits.train
    rows = MadeUp(
        like=moved(train.blank(1), torch.device("cpu"), context.dtype),
        bounds=splits.bounds,
        forms=splits.forms if trained.part is trained.whole else None,
        labels=task.made_up(ROWS_AT_MOST, torch.Generator().manual_seed(0)),
        copies=settings.copies,
        vocabulary=vocabulary_of(trained.part),
        width=context.dtype,
    )
    assert isinstance(engine, partial)
    made: Callable[..., Any] = partial(ShardedPlain, *engine.args, **engine.keywords)
    draws = False
    if noise is not None:
        if engine.args != ("bookkeeping",):
            raise ConfigError(
                "performance.sharding=fsdp2: Opacus' hooks need the whole model; use "
                "mechanism.engine=bookkeeping, or performance.sharding=none"
            )
        layout, draws = layout_of(trained.part, settings.loss(splits), rows)
        ways = {**engine.keywords, "chosen": Chosen(make=partial(ByShards, layout=layout))}
        made = partial(ShardedDPSGD, *engine.args, **ways)
    job = ShardedJob(
        model=without_values(trained.part),
        records=train,
        blank=Records(train.blank(1), task.made_up(1, torch.Generator().manual_seed(0))),
        optimizer=settings.optimizer,
        engine=made,
        randomness=None if noise is None else context.streams.randomness,
        device=context.device.type,
        dtype=context.dtype,
        augment=settings.augmentation,
        average_decay=settings.average_decay,
    )
    with context.ranks.shards(job, trained.part, device=context.device, noise=noise) as leader:
        if noise is not None:
            leader.refuse_wrong(rows, draws=draws, clipping=clipping)
        yield Means(
            model=leader.model, optimizer=leader.optimizer, engine=lambda: leader, team=leader, shards=leader
        )
