"""One use of a layer in a forward pass, and what its rule is given once the backward pass reaches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.clipping import wide


class NoRule(Exception):
    """Shares cannot be told from what this layer took in and gave; another way to gradients must be found."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """A layer, what went in, and the gradient of what came out.

    The first axis is records * copies, the copies of one record side by side; positions that a
    model has put on that axis beside them, record by record, count as copies. `saved` are mean
    and reciprocal standard deviation, where the layer left them behind.
    """

    layer: nn.Module
    inputs: tuple[Tensor, ...]
    grads: Tensor
    copies: int
    saved: tuple[Tensor, Tensor] | None = None

    @property
    def records(self) -> int:
        return self.grads.shape[0] // self.copies

    @cached_property
    def x(self) -> Tensor:
        """The first input, in single precision at least."""
        return wide(self.inputs[0])

    @cached_property
    def dy(self) -> Tensor:
        """The gradient of the output, in single precision at least."""
        return wide(self.grads)


Rule = Callable[[Use], dict[Tensor, Share]]


def sum_copies(rows: Tensor, copies: int) -> Tensor:
    """(records * copies, ...) to (records, ...).

    >>> import torch
    >>> sum_copies(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2)
    tensor([3., 7.])
    """
    return rows if copies == 1 else rows.unflatten(0, (-1, copies)).sum(1)


def original_type(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer as it was before `fully_shard` put one of its own, of the same name, before it."""
    kind = type(layer)
    return kind.__bases__[1] if issubclass(kind, FSDPModule) and FSDPModule in kind.__bases__ else kind
