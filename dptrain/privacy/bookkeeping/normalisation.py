"""Scales and shifts of normalisation layers: two reductions over the positions of each record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts.layers import FrozenBatchNorm
from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Use, sum_copies

InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


def group_norm(use: Use) -> dict[Tensor, Share]:
    """Shares of scale and shift (channels,) of GroupNorm."""
    layer = use.layer
    assert isinstance(layer, nn.GroupNorm)
    return _by_channel(use, layer.weight, layer.bias, groups=layer.num_groups, eps=layer.eps)


def instance_norm(use: Use) -> dict[Tensor, Share]:
    """Shares of scale and shift (channels,) of InstanceNorm: a group a channel."""
    layer = use.layer
    assert isinstance(layer, InstanceNorm)
    return _by_channel(use, layer.weight, layer.bias, groups=layer.num_features, eps=layer.eps)


def layer_norm(use: Use) -> dict[Tensor, Share]:
    """Shares of scale and shift (*normalized_shape) of LayerNorm."""
    layer = use.layer
    assert isinstance(layer, nn.LayerNorm)
    normalise = partial(F.layer_norm, normalized_shape=layer.normalized_shape, eps=layer.eps)
    return _by_feature(use, layer.weight, layer.bias, normalise)


def rms_norm(use: Use) -> dict[Tensor, Share]:
    """Shares of the scale (*normalized_shape) of RMSNorm."""
    layer = use.layer
    assert isinstance(layer, nn.RMSNorm)
    # The layer's own epsilon depends on the precision that it works in.
    eps = layer.eps if layer.eps is not None else torch.finfo(layer.weight.dtype).eps
    normalise = partial(F.rms_norm, normalized_shape=layer.normalized_shape, eps=eps)
    return _by_feature(use, layer.weight, None, normalise)


def frozen_batch_norm(use: Use) -> dict[Tensor, Share]:
    """Shares of scale and shift (channels,) of a BatchNorm whose statistics are constants."""
    layer = use.layer
    assert isinstance(layer, FrozenBatchNorm)
    x, dy = use.x, use.dy
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, variance = layer.running_mean.to(x).view(shape), layer.running_var.to(x).view(shape)
    product = (x - mean) * (variance + layer.eps).rsqrt() * dy
    between = tuple(range(2, x.dim()))
    weight, bias = (layer.get_parameter(name) for name in ("weight", "bias"))
    return _shares(
        use, {weight: product.sum(between), bias: dy.sum(between)} if between else {weight: product, bias: dy}
    )


def _by_channel(
    use: Use, weight: Tensor, bias: Tensor | None, *, groups: int, eps: float
) -> dict[Tensor, Share]:
    """Of inputs (n, channels, ...): every record's channels become channels of one wide normalisation."""
    x, dy = use.x.contiguous(), use.dy.contiguous()
    rows, channels = x.shape[:2]
    mean, reciprocal = use.saved or _statistics(x.view(rows, groups, -1), eps)
    statistics = (each.to(x.dtype).reshape(1, -1) for each in (mean, reciprocal))
    sizes = (1, rows * channels, x[0, 0].numel(), rows * groups)
    _, scales, shifts = torch.ops.aten.native_group_norm_backward(
        dy, x, *statistics, None, *sizes, [False, True, True]
    )
    return _shares(use, {weight: scales} if bias is None else {weight: scales, bias: shifts})


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, dim=-1, correction=0)
    return mean, (variance + eps).rsqrt()


def _by_feature(
    use: Use, weight: Tensor, bias: Tensor | None, normalise: Callable[..., Tensor]
) -> dict[Tensor, Share]:
    """Of inputs (n, ..., *features): a product and a sum over all positions in between."""
    between = tuple(range(1, use.dy.dim() - weight.dim()))
    found: dict[Tensor, Tensor] = {}
    if weight.requires_grad:
        product = normalise(use.x).mul_(use.dy)
        found[weight] = product.sum(between) if between else product
    if bias is not None and bias.requires_grad:
        found[bias] = use.dy.sum(between) if between else use.dy
    return _shares(use, found)


def _shares(use: Use, rows: dict[Tensor, Tensor]) -> dict[Tensor, Share]:
    return {
        parameter: Instantiated.of([sum_copies(found.reshape(-1, *parameter.shape), use.copies)])
        for parameter, found in rows.items()
        if parameter.requires_grad
    }
