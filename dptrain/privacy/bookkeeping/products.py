"""The products of linear layers, by the faster of two libraries on a CPU, decided from shapes alone.

PyTorch multiplies by MKL, which on many processors leaves a part of their speed unused; oneDNN does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts import devices

CACHED = 200_000  # numbers of double precision
MOST_ROWS = 2**19  # that are added up at once, which bounds their rounding (`clipping.MARGIN_A_RECORD`)
WORTH_IT = 2**27  # multiply-adds of a product, from which a detour through Python, or a copy, pays


@contextmanager
def by_onednn(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Inside of the `with`, oneDNN does large products of these layers; their weights get no gradient."""
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Linear, inputs: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    fits = inputs.shape[-1:] == weight.shape[1:]  # else let PyTorch say what is wrong
    fits = fits and not torch.is_autocast_enabled(inputs.device.type)  # which the product would not hear of
    if fits and weight.is_leaf and _pays(inputs.numel() * len(weight), inputs, weight):
        return _Linear.apply(inputs, weight, bias)
    return F.linear(inputs, weight, bias)


class _Linear(torch.autograd.Function):
    """inputs (..., fan_in) @ weight (outputs, fan_in).T + bias (outputs,)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(grads, weight.T) if ctx.needs_input_grad[0] else None, None, None


def summed_products(left: Tensor, right: Tensor) -> Tensor:
    """left (n, a).T @ right (n, b), in double precision: (a, b), float64.

    Some rows at a time, so that what is made of them stays in a processor's cache.
    """
    rows = max(1, min(MOST_ROWS, CACHED // (left.shape[1] + right.shape[1])))
    total = devices.in_double(left.new_zeros(left.shape[1], right.shape[1]))
    for some, others in zip(left.split(rows), right.split(rows), strict=True):
        total.addmm_(devices.in_double(some).T, devices.in_double(others))
    return total


def _product(rows: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (..., n) @ columns (m, n).T + bias (m,), where columns or their transpose lie in order."""
    return torch.ops.mkldnn._linear_pointwise(rows, columns, bias, "none", [], "")


def _pays(work: int, *factors: Tensor) -> bool:
    """Whether oneDNN is at hand for a product of these, of so many multiply-adds, and worth it."""
    if work < WORTH_IT or not torch.backends.mkldnn.is_available():
        return False
    return all(factor.device.type == "cpu" and factor.dtype == torch.float32 for factor in factors)
