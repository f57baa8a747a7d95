"""Convolutions whose kernels are made of other parameters: the chain rule, record by record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dptrain.contracts import MadeKernels
from dptrain.privacy.bookkeeping.convolution import of_bias, of_kernels
from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Use


def made_kernels(use: Use) -> dict[Tensor, Share]:
    """Shares of the bias (outputs,), and of every parameter that the kernels are made of."""
    layer = use.layer
    assert isinstance(layer, MadeKernels)
    makers = [each for each in layer.parameters() if each.requires_grad and each is not layer.bias]
    found = of_bias(use, layer)
    if makers:
        pulled = [_pulled(layer, makers, block) for block in of_kernels(use, layer)]
        found |= {
            maker: Instantiated.of(blocks)
            for maker, blocks in zip(makers, zip(*pulled, strict=True), strict=True)
        }
    return found


def _pulled(layer: MadeKernels, makers: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
    """From gradients with respect to the kernels (records, ...) to those with respect to each maker."""
    with torch.enable_grad():
        kernels = layer.kernels()
    return torch.autograd.grad(kernels, makers, rows.to(kernels.dtype), is_grads_batched=True)
