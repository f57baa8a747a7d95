"""Linear layers, at one position a record or at many (Li et al. 2022, section 4)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dptrain.privacy.bookkeeping import costs
from dptrain.privacy.bookkeeping.gram import norms_from
from dptrain.privacy.bookkeeping.shares import Instantiated, Kept, Share, in_blocks, lengths
from dptrain.privacy.bookkeeping.uses import Use

WORTH_ONEDNN = 32  # inputs and outputs, below which its preparations cost more than they save


def linear(use: Use) -> dict[Tensor, Share]:
    """Shares of the weight (outputs, fan_in) and of the bias (outputs,)."""
    layer = use.layer
    assert isinstance(layer, nn.Linear)
    # Copies of a record are further positions: (records, positions, features)
    inputs = use.x.reshape(use.records, -1, use.x.shape[-1])
    grads = use.dy.reshape(use.records, -1, use.dy.shape[-1])
    found: dict[Tensor, Share] = {}
    if layer.weight.requires_grad:
        found[layer.weight] = _weight(inputs, grads)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = Instantiated.of([grads.sum(1) if grads.shape[1] > 1 else grads[:, 0]])
    return found


def _weight(inputs: Tensor, grads: Tensor) -> Share:
    positions, fan_in, outputs = grads.shape[1], inputs.shape[2], grads.shape[2]
    keep = partial(Kept, inputs=inputs, grads=grads, combine=_combine, form=_form)
    if positions == 1:
        return keep(norms=lengths(inputs) * lengths(grads))
    way = costs.way(
        positions=positions, fan_in=fan_in, outputs=outputs, gram=float(positions**2 * (fan_in + outputs))
    )
    formed = (_form(x, dy) for x, dy in in_blocks(fan_in * outputs, inputs, grads))
    if way == costs.KEEP:
        return Instantiated.of(formed)
    if way == costs.TWICE:
        return keep(norms=torch.cat([lengths(block) for block in formed]))
    blocks = in_blocks(positions**2, inputs, grads)
    return keep(norms=torch.cat([_gram_norms(x, dy) for x, dy in blocks]))


def _gram_norms(inputs: Tensor, grads: Tensor) -> Tensor:
    """|sum_t dy_t x_t^T|^2 = sum_{t,s} <x_t, x_s> <dy_t, dy_s>."""
    products = torch.bmm(inputs, inputs.transpose(1, 2))
    products *= torch.bmm(grads, grads.transpose(1, 2))
    added = torch.linalg.vector_norm(inputs, dim=2) * torch.linalg.vector_norm(grads, dim=2)
    return norms_from(products.flatten(1).sum(1), added.sum(1))


def _form(inputs: Tensor, grads: Tensor) -> Tensor:
    return torch.bmm(grads.transpose(1, 2), inputs)


def _combine(inputs: Tensor, grads: Tensor) -> Tensor:
    inputs, grads = inputs.flatten(0, 1), grads.flatten(0, 1)
    outputs, fan_in = grads.shape[1], inputs.shape[1]
    if min(outputs, fan_in) >= WORTH_ONEDNN and takes_onednn(inputs):
        weight = inputs.new_empty(outputs, fan_in).to_mkldnn()  # its values play no part in its own gradient
        gradient, _ = torch.ops.aten.mkldnn_linear_backward_weights(
            grads.to_mkldnn(), inputs.to_mkldnn(), weight, False
        )
        return gradient
    return grads.T @ inputs


def takes_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN's product is at hand, twice as fast as MKL's on processors that MKL neglects."""
    return (
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    )
