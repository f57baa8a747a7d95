"""Convolutions whose kernels are made of other parameters: the chain rule, record by record."""

from __future__ import annotations

import torch
from torch import Tensor

from dptrain.contracts import MadeKernels
from dptrain.privacy.bookkeeping.convolution import of_bias, of_kernels
from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Use
from dptrain.privacy.clipping import wide


def made_kernels(use: Use) -> dict[Tensor, Share]:
    """Shares of the bias (outputs,), and of every parameter that the kernels are made of.

    One that has no say in the kernels has no share, as if its layer had not been used.
    """
    layer = use.layer
    assert isinstance(layer, MadeKernels)
    makers = [each for each in layer.parameters() if each.requires_grad and each is not layer.bias]
    with torch.enable_grad():
        kernels = layer.kernels()
    found = of_bias(use, layer)
    if makers and kernels.requires_grad:
        pulled = [
            torch.autograd.grad(
                kernels,
                makers,
                block.to(kernels.dtype),
                is_grads_batched=True,
                allow_unused=True,
                retain_graph=True,
            )
            for block in of_kernels(use, layer)
        ]
        found |= {
            maker: Instantiated.of(map(wide, blocks))
            for maker, blocks in zip(makers, zip(*pulled, strict=True), strict=True)
            if blocks[0] is not None
        }
    return found
