"""One training whose model is divided among processes: what each of them holds and does.

All of them make the same calls at the same time, for each gathers what the others hold. The first draws and
says what is done; see `training.leading`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from cryptography.hazmat.primitives.poly1305 import Poly1305
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from dptrain.contracts import Records
from dptrain.contracts.randomness import KEY_BYTES
from dptrain.privacy.made_up import MadeUp
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.sharded import ShardedDPSGD, collected, fill, held, shard
from dptrain.privacy.sharded_agreement import ShardedTrial
from dptrain.training import shard_files
from dptrain.training.accumulate import add_up
from dptrain.training.augment import Augmentation
from dptrain.training.masks import Masks
from dptrain.training.ranks import Channel
from dptrain.training.schedule import follow
from dptrain.training.sharded_plain import ShardedPlain


@dataclass(frozen=True, kw_only=True)
class ShardedJob:
    """A training, as all processes need to know it."""

    model: nn.Module  # its trained part; parameters have no values
    records: Records
    blank: Records  # one row that is no record
    optimizer: Callable[..., Optimizer]
    engine: Callable[..., ShardedDPSGD | ShardedPlain]  # of a model and an optimizer
    randomness: str | None  # of the noise, as `NoiseSource.on` takes it; None: there is none
    device: str  # its type: each process has a device of its own
    dtype: torch.dtype
    augment: Augmentation | None
    average_decay: float


def without_values(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters have shapes and no values; buffers are as they are."""
    values = {
        id(each): torch.nn.Parameter(each.to("meta"), each.requires_grad) for each in model.parameters()
    }
    return copy.deepcopy(model, dict(values))


class Shards:
    """What one process holds of a training, and its part in each of its steps."""

    def __init__(
        self, job: ShardedJob, channel: Channel, device: torch.device, values: dict[str, Tensor] | None
    ) -> None:
        """`values` are the model's weights, which the first process has."""
        self.job, self.channel, self.device = job, channel, device
        self.model = job.model.to(job.dtype)
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        shard(self.model, init_device_mesh(device.type, (channel.size,)))
        self.model.to_empty(device=device)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        for name, parameter in self.model.named_parameters():
            fill(parameter, None if values is None else values.pop(name))
        self.model.train()
        self.trained = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = job.optimizer(self.model.parameters())
        noise = {}
        if job.randomness is not None:
            source = NoiseSource.on(device, bytes(KEY_BYTES), randomness=job.randomness)  # keys come by step
            noise["generator"] = source
        self.engine = job.engine(self.model, self.optimizer, **noise)
        self.averages = [held(each).clone() for each in self.trained] if job.average_decay else []
        self.averaged = 0
        self._aside: list[ExitStack] = []

    def add_blocks(self, key: bytes, blocks: tuple[Tensor, ...]) -> tuple[float, ...]:
        """Add up the blocks whose turn is this process's, of a step with masks of this key; their losses."""
        masks, losses = Masks.of_step(key, self.device), []
        for start in range(0, len(blocks), self.channel.size):
            number = start + self.channel.rank
            if number >= len(blocks):
                self.idle()
                continue
            batch = self.job.records.take(blocks[number]).read().to(self.device, self.job.dtype)
            with masks.drawing(number):
                losses.append(float(add_up(self.engine, batch, self.job.augment)))
        return tuple(losses)

    def idle(self) -> None:
        """Gather layers with the others, and add nothing to what they add up."""
        blank = self.job.blank.to(self.device, self.job.dtype)
        self.engine.idle(blank.inputs, blank.labels)

    def add_gradients(self, gradients: list[Tensor] | None) -> None:
        """Add units that are given by their gradients, which the first process has."""
        if gradients is None:
            self.engine.add_nothing()
        else:
            self.engine.accumulate_gradients(gradients)

    def sum(self) -> Tensor | None:
        """The sum so far, without noise, on the CPU of the first process: (parameters,)."""
        return self._whole(self.engine.shards())

    def noise(self) -> Tensor | None:
        return self._whole(self.engine.noise_shards())

    def seal(self, keys: tuple[bytes, ...]) -> bytes | None:
        """The tag of all shards' tags, by the keys of each; None in all processes but the first."""
        content = b"".join(each.cpu().numpy().tobytes() for each in self.engine.shards())
        tags = self.channel.gather(Poly1305.generate_tag(keys[self.channel.rank], content))
        return b"".join(tags) if tags else None

    def wrong(self, rows: MadeUp, draws: bool, clipping: str) -> str:
        """What is wrong with the gradients of single rows that are no record; empty: nothing."""
        engine = self.engine
        assert isinstance(engine, ShardedDPSGD), "without clipping there are none"
        assert engine.gradients is not None, "a way to them was chosen"
        return ShardedTrial(self.model, engine.loss, engine.gradients, clipping).wrong(rows, draws=draws)

    def forget(self) -> None:
        self.engine.forget()

    def put_aside(self) -> None:
        """Begin another sum; what was added up comes back by `put_back`."""
        self._aside.append(ExitStack())
        self._aside[-1].enter_context(self.engine.aside())

    def put_back(self) -> None:
        self._aside.pop().close()

    def keep_noise(self) -> None:
        self.engine.keep_noise()

    def update(self, key: bytes | None, rates: list[float]) -> None:
        """Take the step, with noise of this key, by these learning rates; average the weights."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.engine.update_shards(key)
        if self.averages:
            weights = [held(each) for each in self.trained]
            if self.averaged == 0:
                torch._foreach_copy_(self.averages, weights)
            else:
                follow(self.averages, weights, self.averaged, self.job.average_decay)
            self.averaged += 1

    def weights(self, *, averaged: bool) -> dict[str, Tensor]:
        """All weights, or their averages where there are any, on the CPU of the first process."""
        averages = dict(zip(self._names(), self.averages, strict=True)) if averaged and self.averages else {}
        found = {}
        for name, parameter in self.model.named_parameters():
            if (whole := collected(averages.get(name, held(parameter)), parameter)) is not None:
                found[name] = whole
        return found

    def save(self, path: str) -> None:
        """Write weights, averages and the optimizer's state, each process its own, into a new folder."""
        shard_files.save(
            Path(path), self.model, self.optimizer, dict(zip(self._names(), self.averages, strict=False))
        )

    def load(self, path: str, averaged: int) -> None:
        """Take what was written by as many processes as there were."""
        found = shard_files.load(Path(path), self.model, self.optimizer, list(self._names()))
        self.averages = [found[name] for name in self._names()] if self.averages else []
        self.averaged = averaged

    def _names(self) -> list[str]:
        return [name for name, each in self.model.named_parameters() if each.requires_grad]

    def _whole(self, shards: list[Tensor]) -> Tensor | None:
        found = [collected(each, p) for each, p in zip(shards, self.trained, strict=True)]
        parts = [each.reshape(-1) for each in found if each is not None]
        return torch.cat(parts) if parts else None
