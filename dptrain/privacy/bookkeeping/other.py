"""Layers without a rule of ours: run once more, record by record, for gradients in full."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Rule, Use, sum_copies
from dptrain.privacy.clipping import wide


@contextmanager
def without_vmap_warning() -> Iterator[None]:
    """Without the word that an operation is done row by row: it is as right, and as fast as can be had."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet")
        yield


def in_full(layer: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any], *, axis: int) -> Rule:
    """The rule of a layer that was called with these arguments; records lie along `axis` of its output.

    Tensors as long as the output along that axis are taken apart by record. A layer that draws
    random numbers would draw others than its forward pass did: functorch raises RuntimeError.
    """
    names = {name: each for name, each in layer.named_parameters() if each.requires_grad}

    def rule(use: Use) -> dict[Tensor, Share]:
        rows = len(use.grads)

        def apart(each: Any) -> bool:
            return isinstance(each, Tensor) and each.dim() > axis and each.shape[axis] == rows

        leaves, tree = torch.utils._pytree.tree_flatten((arguments, dict(named)))
        leaves = [each.detach() if isinstance(each, Tensor) else each for each in leaves]
        places = [position for position, each in enumerate(leaves) if apart(each)]

        def product(values: dict[str, Tensor], own: list[Tensor], dy: Tensor) -> Tensor:
            alone = list(leaves)
            for position, each in zip(places, own, strict=True):
                alone[position] = each.unsqueeze(axis)
            given, keywords = torch.utils._pytree.tree_unflatten(alone, tree)
            output = functional_call(layer, values, given, keywords)
            return (output * dy.unsqueeze(axis)).sum()

        values = {name: each.detach() for name, each in names.items()}
        own = [leaves[position] for position in places]
        with without_vmap_warning():
            found = vmap(grad(product), in_dims=(None, axis, 0))(values, own, use.grads)
        return {
            names[name]: Instantiated.of([sum_copies(wide(each), use.copies)]) for name, each in found.items()
        }

    return rule
