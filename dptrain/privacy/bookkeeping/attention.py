"""PyTorch's multi-head attention, of products that leave behind what clipping needs, and Opacus' bias."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from opacus.layers.dp_multihead_attention import SequenceBias
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import NoRule, Use, sum_copies

if TYPE_CHECKING:
    from dptrain.privacy.bookkeeping.tape import Tape


def sequence_bias(use: Use) -> dict[Tensor, Share]:
    """Share of the bias (features,): the gradient at the last position."""
    layer = use.layer
    assert isinstance(layer, SequenceBias)
    return {layer.bias: Instantiated.of([sum_copies(use.dy[:, -1], use.copies)])}


def attention(
    layer: nn.MultiheadAttention,
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The outputs, the attention weights and the random draws of `nn.MultiheadAttention.forward`."""
    if query.dim() != 3:
        raise NoRule("a sequence without an axis of records")
    if is_causal and attn_mask is None:
        raise RuntimeError("need attn_mask if specifying the is_causal hint")  # as PyTorch has it
    alike = query is key and key is value
    if layer.batch_first:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    length, rows, width = query.shape
    q, k, v = _projected(layer, tape, query, key, value, alike=alike)
    padding = _additive(key_padding_mask, query.dtype)
    mask = None if is_causal and padding is None and not need_weights else _additive(attn_mask, query.dtype)
    is_causal = is_causal and padding is None
    if mask is not None and mask.dim() == 2:
        mask = mask.unsqueeze(0)
    if layer.bias_k is not None and layer.bias_v is not None:
        k, v = (
            torch.cat([each, _for_each_record(tape, layer, bias, rows)])
            for each, bias in ((k, layer.bias_k), (v, layer.bias_v))
        )
        mask, padding = _one_longer(mask), _one_longer(padding)
    heads, size = layer.num_heads, width // layer.num_heads
    q, k, v = (each.reshape(len(each), rows * heads, size).transpose(0, 1) for each in (q, k, v))
    if layer.add_zero_attn:
        k, v = (torch.cat([each, each.new_zeros(rows * heads, 1, size)], dim=1) for each in (k, v))
        mask, padding = _one_longer(mask), _one_longer(padding)
    seen = k.shape[1]
    if padding is not None:
        padding = padding.view(rows, 1, 1, seen).expand(-1, heads, -1, -1).reshape(rows * heads, 1, seen)
        mask = padding if mask is None else mask + padding
    dropout = layer.dropout if layer.training else 0.0
    weights: Tensor | None = None
    if need_weights:
        if is_causal and mask is None:
            raise RuntimeError("is_causal needs attn_mask where weights are asked for")
        weights = _weights(q, k, mask, dropout)
        found = torch.bmm(weights, v).transpose(0, 1).reshape(length, rows, width)
        weights = weights.view(rows, heads, length, seen)
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        if mask is not None:
            mask = mask.unsqueeze(0) if len(mask) == 1 else mask.view(rows, heads, -1, seen)
        q, k, v = (each.unflatten(0, (rows, heads)) for each in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        found = found.permute(2, 0, 1, 3).reshape(length, rows, width)
    out = layer.out_proj
    output = tape.linear(layer, found, out.weight, out.bias, axis=1)
    return (output.transpose(0, 1) if layer.batch_first else output), weights


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """How much each query (rows * heads, length, size) takes of each key: (rows * heads, length, seen)."""
    scores = torch.bmm(q * math.sqrt(1.0 / q.shape[-1]), k.transpose(1, 2))
    weights = F.softmax(scores if mask is None else mask + scores, dim=-1)
    return F.dropout(weights, dropout) if dropout > 0 else weights


def _projected(
    layer: nn.MultiheadAttention, tape: Tape, query: Tensor, key: Tensor, value: Tensor, *, alike: bool
) -> tuple[Tensor, ...]:
    """Queries, keys and values (length, rows, width), from one matrix or from one each."""
    width, bias = layer.embed_dim, layer.in_proj_bias
    thirds = [slice(width * third, width * (third + 1)) for third in range(3)]
    if layer._qkv_same_embed_dim:
        assert layer.in_proj_weight is not None
        if alike:
            together = tape.linear(layer, query, layer.in_proj_weight, bias, axis=1)
            return together.chunk(3, dim=-1)
        return tuple(
            tape.linear(layer, rows, layer.in_proj_weight, bias, outputs=third, axis=1)
            for rows, third in zip((query, key, value), thirds, strict=True)
        )
    weights: Any = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    return tuple(
        tape.linear(layer, rows, weight, bias, bias_outputs=third, axis=1)
        for rows, weight, third in zip((query, key, value), weights, thirds, strict=True)
    )


def _for_each_record(tape: Tape, layer: nn.Module, bias: Tensor, rows: int) -> Tensor:
    """A bias (1, 1, width) beside every record: (1, rows, width)."""

    def rule(use: Use) -> dict[Tensor, Share]:
        return {bias: Instantiated.of([sum_copies(use.dy, use.copies).unsqueeze(1)])}

    return tape.tap(layer, bias.expand(-1, rows, -1), (), rule, (bias,), axis=1)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask to add to scores, from one of booleans."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)


def _one_longer(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else F.pad(mask, (0, 1))
