"""Per-record gradients for Opacus' hooks where its own are those of something else.

Opacus reads the windows of an image as if its rows followed each other, pads by zeros whatever the layer pads
by, gives the padding's row of an embedding a gradient, and counts a row once that a bag holds twice. It says
nothing of that. These take their places, by Opacus' own extension point.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.conv import compute_conv_grad_sample
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F


@register_grad_sampler([nn.Conv1d, nn.Conv2d, nn.Conv3d])
def convolution(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: list[Tensor], grads: Tensor
) -> Mapping[Tensor, Tensor]:
    """Gradients of weight and bias (n, *shape), from inputs and output gradients (n, channels, *size)."""
    same = layer.padding == "same" and any(extent % 2 == 0 for extent in layer.kernel_size)
    if layer.padding_mode != "zeros" or same:
        return _by_functorch(layer, inputs[0], grads)
    in_order = [tensor.contiguous() for tensor in inputs]
    return compute_conv_grad_sample(layer, in_order, grads)


def _by_functorch(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor, grads: Tensor
) -> Mapping[Tensor, Tensor]:
    """The layer's own forward pass, differentiated record by record."""

    def product(values: list[Tensor], image: Tensor, dy: Tensor) -> Tensor:
        bias = values[1] if len(values) > 1 else None
        output: Tensor = layer._conv_forward(image.unsqueeze(0), values[0], bias)
        return (output * dy).sum()

    values = list(layer.parameters())
    found = vmap(grad(product), in_dims=(None, 0, 0))([each.detach() for each in values], inputs, grads)
    return dict(zip(values, found, strict=True))


@register_grad_sampler(nn.LayerNorm)
def layer_norm(layer: nn.LayerNorm, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of scale and shift (n, *shape), be there a shift or not."""
    normalised = F.layer_norm(inputs[0], layer.normalized_shape, eps=layer.eps)
    between = tuple(range(1, grads.dim() - layer.weight.dim()))
    found = {layer.weight: grads * normalised}
    if layer.bias is not None:
        found[layer.bias] = grads
    return {parameter: each.sum(between) if between else each for parameter, each in found.items()}


@register_grad_sampler(nn.Embedding)
def embedding(layer: nn.Embedding, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of the table (n, entries, width), from whole numbers (n, ...)."""
    rows = [
        _table(layer, places.flatten(), found.reshape(-1, layer.embedding_dim))
        for places, found in zip(inputs[0], grads, strict=True)
    ]
    return {layer.weight: torch.stack(rows)}


@register_grad_sampler(nn.EmbeddingBag)
def bag(layer: nn.EmbeddingBag, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of the table (n, entries, width), a bag a record, each entry as heavy as the others."""
    if inputs[0].dim() == 2:
        entries = list(inputs[0])
    else:
        starts = inputs[1][:-1] if layer.include_last_offset else inputs[1]
        entries = list(inputs[0].tensor_split(starts[1:].cpu()))
    rows = []
    for places, found in zip(entries, grads, strict=True):
        if layer.mode == "max":
            rows.append(_largest(layer, places, found))
            continue
        counted = len(places) if layer.padding_idx is None else int((places != layer.padding_idx).sum())
        share = found / max(1, counted) if layer.mode == "mean" else found
        rows.append(_table(layer, places, share.expand(len(places), -1)))
    return {layer.weight: torch.stack(rows)}


def _largest(layer: nn.EmbeddingBag, places: Tensor, grads: Tensor) -> Tensor:
    """The table's gradient by one bag, which goes to the row that was the largest, in each coordinate."""
    table = torch.zeros(layer.weight.shape, dtype=grads.dtype, device=grads.device)
    kept = places if layer.padding_idx is None else places[places != layer.padding_idx]
    if len(kept):
        largest = kept[layer.weight.detach()[kept].argmax(0)]
        table[largest, torch.arange(len(grads), device=grads.device)] = grads
    return table


def _table(layer: nn.Embedding | nn.EmbeddingBag, places: Tensor, grads: Tensor) -> Tensor:
    """The table's gradient by one record's lookups (entries,), each with its own (entries, width)."""
    table = torch.zeros(layer.weight.shape, dtype=grads.dtype, device=grads.device)
    table.index_add_(0, places, grads)
    if layer.padding_idx is not None:
        table[layer.padding_idx] = 0.0
    if layer.scale_grad_by_freq:
        table /= places.bincount(minlength=len(table)).clamp(min=1).unsqueeze(1)
    return table
