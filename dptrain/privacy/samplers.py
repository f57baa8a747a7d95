"""Opacus' per-record gradients of convolutions, right however images lie in memory.

Opacus reads the windows of an image as if its rows followed each other. Of one that lies channels last it
forms the gradient of something else, and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.conv import compute_conv_grad_sample
from torch import Tensor, nn


@register_grad_sampler(nn.Conv2d)
def convolution(layer: nn.Conv2d, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of weight and bias (n, *shape), from inputs and output gradients (n, channels, *size)."""
    in_order = [tensor.contiguous() for tensor in inputs]
    return compute_conv_grad_sample(layer, in_order, grads)
