"""DP-SGD with the parameters, the sums and the optimizer's state divided among processes (FSDP2).

Each process clips its own records against whole layers, which it gathers one after the other; what it adds
to a parameter's sum is handed to those who hold its rows. A coordinate's noise is drawn by who holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial
from torch.utils._pytree import tree_map_only

from dptrain.contracts import ConfigError, Inputs
from dptrain.privacy.bookkeeping.module import FORWARDS, RULES
from dptrain.privacy.bookkeeping.tape import Layout
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.privacy.gradients import ByRules, RecordLoss
from dptrain.privacy.noisy import NoisySum, on_grid

GATHERED_ALONE = 100_000  # parameters of a layer, from which it is gathered by itself
AT_ONCE = 2**21  # numbers that are added up over all processes


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide this model's parameters by their first axis, in place.

    Large layers of which a rule tells single gradients are gathered one by one, all others with the model.
    Raises ConfigError where a parameter cannot be divided.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise ConfigError(
                f"performance.sharding=fsdp2: `{name}` is a single number, which cannot be divided among "
                "processes; make it a tensor of one axis, or use performance.sharding=none"
            )
    for layer in _alone(model):
        layer.register_forward_hook(_without_views)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums
            module.set_gradient_divide_factor(1.0)  # sums, no means over processes


def _alone(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that are gathered by themselves."""
    if type(module) in RULES or type(module) in FORWARDS:
        if sum(each.numel() for each in module.parameters()) >= GATHERED_ALONE:
            yield module
        return
    for child in module.children():
        yield from _alone(child)


def _without_views(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
    """What a layer returns as tensors of their own: work in place on a view would lose FSDP2's hook on it."""
    return tree_map_only(Tensor, lambda each: each.clone() if each._is_view() else each, output)


def gathered(model: nn.Module) -> dict[Tensor, Tensor]:
    """By each gathered parameter, of which a layer's forward pass makes use, the shard of it that is held."""
    found: dict[Tensor, Tensor] = {}
    for module in model.modules():
        if isinstance(module, FSDPModule):
            shards = dict(module.named_parameters())
            module.unshard()
            found.update(
                (whole, shards[name])
                for name, whole in module.named_parameters()
                if whole is not shards[name]
            )
            module.reshard()
    return found


class ByShards(ByRules):
    """The rules of layers that are gathered for their turn."""

    def __init__(self, model: nn.Module, loss: RecordLoss, layout: Layout | None = None) -> None:
        super().__init__(model, loss, layout)
        self.module.same = gathered(model)


class ShardedSum(NoisySum):
    """A sum of which each process holds the rows of the parameters that it holds."""

    step_key: bytes | None = None  # of the noise to come
    idle = False  # whether what this process adds counts for nothing

    def add(self, sums: Iterable[Tensor | None]) -> None:
        """Add what all processes have, one parameter after the other: all of them make this call at once."""
        self.fill()
        for parameter, total in zip(self.params, sums, strict=True):
            add_reduced(
                parameter.summed_grad,
                None if self.idle else total,
                parameter,
                lambda part: on_grid(part.double(), self.exact_step),
            )

    def fill(self) -> None:
        """Where nothing was added, the sum is zero."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(held(parameter), dtype=torch.float64)

    def add_noise(self) -> None:
        """Gradients become the sums with noise: each process adds that of its own coordinates."""
        assert self.step_key is not None, "noise is a step's"
        parts, starts, size = [], [], 0
        for parameter in self.params:
            first, _ = rows_of(parameter)
            width = parameter.numel() // max(1, len(parameter))
            parts.append(parameter.summed_grad.reshape(-1))
            starts.append(size + first * width)
            size += parameter.numel()
        std = self.noise_multiplier * self.max_grad_norm
        noisy = self.source.add_to_parts(self.step_key, parts, starts, std, size=size)
        self.step_key = None
        for parameter, gradient in zip(self.params, noisy, strict=True):
            parameter.grad = like(parameter, gradient)

    def _added(self, noisy: Tensor, total: Tensor) -> Tensor:
        return super()._added(held(noisy), total)


class ShardedDPSGD(DPSGDEngine):
    """One process's part of a DP-SGD training; all make the same calls."""

    optimizer: ShardedSum

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, sums=ShardedSum, **named)

    def idle(self, inputs: Inputs, labels: Tensor) -> None:
        """Gather layers with the others for a row that is no record, and add nothing."""
        dropped, self.optimizer.idle = self.optimizer.dropped, True
        try:
            self.accumulate(inputs, labels)
        finally:
            self.optimizer.dropped, self.optimizer.idle = dropped, False

    def add_nothing(self) -> None:
        """Take part while another process adds gradients."""
        self.optimizer.add([None] * len(self.optimizer.params))

    def shards(self) -> list[Tensor]:
        """What is held of the sum, a part a parameter."""
        self.optimizer.fill()
        return [parameter.summed_grad for parameter in self.optimizer.params]

    def noise_shards(self) -> list[Tensor]:
        """What is held of the last step's noise, a part a parameter."""
        return self.optimizer.last_noise

    def update_shards(self, key: bytes | None) -> None:
        """Take the step, with noise of this key."""
        self.optimizer.step_key = key
        self.update()


def rows_of(parameter: Tensor) -> tuple[int, int]:
    """Where the rows of a sharded parameter start that this process holds, and how many they are."""
    assert isinstance(parameter, DTensor)
    mesh, rows = parameter.device_mesh, len(parameter)
    each = -(-rows // mesh.size())
    first = min(rows, each * mesh.get_local_rank())
    return first, min(rows, first + each) - first


def held(parameter: Tensor) -> Tensor:
    """The rows of a sharded parameter that this process holds, themselves."""
    assert isinstance(parameter, DTensor)
    local: Tensor = parameter.detach().to_local()  # type: ignore[attr-defined]
    return local


def like(parameter: Tensor, local: Tensor) -> DTensor:
    """What this process holds of something, as a tensor that is divided as this parameter is."""
    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        local.to(parameter.dtype).view(held(parameter).shape),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def add_reduced(
    mine: Tensor,
    whole: Tensor | None,
    parameter: Tensor,
    prepared: Callable[[Tensor], Tensor] = Tensor.detach,
) -> None:
    """Add to what is held of a sum what all processes have of it, each in the parameter's shape, in place.

    A few columns at a time, each `prepared` first, so that no process holds much of a whole sum twice.
    """
    assert isinstance(parameter, DTensor)
    rows, mesh, sums = len(parameter), parameter.device_mesh, [Partial("sum")]
    width = parameter.numel() // max(1, rows)
    rest, some = mine.view(len(mine), width), max(1, AT_ONCE // max(1, rows))
    for start in range(0, width, some):
        columns = slice(start, min(width, start + some))
        if whole is None:
            part = mine.new_zeros(rows, columns.stop - start)
        else:
            part = prepared(whole.reshape(rows, width)[:, columns]).to(mine.dtype).contiguous()
        divided = DTensor.from_local(part, mesh, sums, run_check=False)
        rest[:, columns] += divided.redistribute(mesh, parameter.placements).to_local()


def collected(local: Tensor, parameter: Tensor) -> Tensor | None:
    """All rows of what is divided as this parameter is, on the CPU of the first process; None elsewhere."""
    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    mine = torch.zeros(-(-len(parameter) // mesh.size()), *parameter.shape[1:], dtype=local.dtype)
    mine[: len(local)] = local.detach().cpu().view(len(local), *parameter.shape[1:])
    first = mesh.get_local_rank() == 0
    found = [torch.empty_like(mine) for _ in range(mesh.size())] if first else None
    dist.gather(mine, found, 0)
    return None if found is None else torch.cat(found)[: len(parameter)]


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor | None) -> None:
    """Give all processes the rows that they hold of a parameter, of which the first has the whole."""
    assert isinstance(parameter, DTensor)
    size = parameter.device_mesh.size()
    mine = torch.empty(-(-len(parameter) // size), *parameter.shape[1:], dtype=parameter.dtype)
    shards = None
    if whole is not None:
        padded = torch.zeros(len(mine) * size, *parameter.shape[1:], dtype=parameter.dtype)
        padded[: len(whole)] = whole
        shards = list(padded.split(len(mine)))
    dist.scatter(mine, shards, 0)
    held(parameter).copy_(mine[: rows_of(parameter)[1]])
