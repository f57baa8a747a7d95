"""Linear layers, at one position a record or at many (Li et al. 2022, section 4)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dptrain.privacy.bookkeeping import costs
from dptrain.privacy.bookkeeping.products import summed_products
from dptrain.privacy.bookkeeping.shares import (
    Formed,
    Instantiated,
    Kept,
    Part,
    Share,
    in_blocks,
    lengths,
    norms_from,
    norms_of_formed,
)
from dptrain.privacy.bookkeeping.uses import Rule, Use


def linear(use: Use) -> dict[Tensor, Share]:
    """Shares of the weight (outputs, fan_in) and of the bias (outputs,)."""
    layer = use.layer
    assert isinstance(layer, nn.Linear)
    return _shares(use, layer.weight, layer.bias)


def linear_in(
    weight: Tensor, bias: Tensor | None, *, outputs: slice | None = None, bias_outputs: slice | None = None
) -> Rule:
    """The rule of a product with some outputs of a weight and of a bias, whatever layer holds them."""

    def rule(use: Use) -> dict[Tensor, Share]:
        found = _shares(use, weight, bias)
        for parameter, part in ((weight, outputs), (bias, bias_outputs)):
            if part is not None and parameter in found:
                found[parameter] = Part.of(found[parameter], part, len(parameter))
        return found

    return rule


def _shares(use: Use, weight: Tensor, bias: Tensor | None) -> dict[Tensor, Share]:
    # Copies of a record are further positions: (records, positions, features)
    inputs = use.x.reshape(use.records, -1, use.x.shape[-1])
    grads = use.dy.reshape(use.records, -1, use.dy.shape[-1])
    found: dict[Tensor, Share] = {}
    if bias is not None and bias.requires_grad:
        found[bias] = Instantiated.of([grads.sum(1) if grads.shape[1] > 1 else grads[:, 0]])
    if weight.requires_grad:
        found[weight] = _weight(inputs, grads, bias=None if bias is None else found.get(bias))
    return found


def _weight(inputs: Tensor, grads: Tensor, *, bias: Share | None) -> Share:
    positions, fan_in, outputs = grads.shape[1], inputs.shape[2], grads.shape[2]
    keep = partial(Kept, inputs=inputs, grads=grads, combine=_combine, form=_form)
    if positions == 1:  # an outer product, of which the bias' gradient is one factor
        return keep(norms=lengths(inputs) * (lengths(grads) if bias is None else bias.norms))
    way = costs.way(
        positions=positions, fan_in=fan_in, outputs=outputs, gram=float(positions**2 * (fan_in + outputs))
    )
    formed = (_form(x, dy) for x, dy in in_blocks(fan_in * outputs, inputs, grads))
    if way == costs.KEEP:
        return Instantiated.of(formed)
    if way == costs.TWICE:
        norms = norms_of_formed(torch.cat([lengths(block) for block in formed]), _added(inputs, grads))
        return Formed(inputs=inputs, grads=grads, norms=norms, form=_form, size=fan_in * outputs)
    blocks = in_blocks(positions**2, inputs, grads)
    return keep(norms=torch.cat([_gram_norms(x, dy) for x, dy in blocks]))


def _gram_norms(inputs: Tensor, grads: Tensor) -> Tensor:
    """|sum_t dy_t x_t^T|^2 = sum_{t,s} <x_t, x_s> <dy_t, dy_s>."""
    products = torch.bmm(inputs, inputs.transpose(1, 2))
    products *= torch.bmm(grads, grads.transpose(1, 2))
    return norms_from(products.flatten(1).sum(1), _added(inputs, grads))


def _added(inputs: Tensor, grads: Tensor) -> Tensor:
    """Sum over positions of the lengths of what is added up: (records,)."""
    lengths_there = torch.linalg.vector_norm(inputs, dim=2) * torch.linalg.vector_norm(grads, dim=2)
    return lengths_there.sum(1)


def _form(inputs: Tensor, grads: Tensor) -> Tensor:
    return torch.bmm(grads.transpose(1, 2), inputs)


def _combine(inputs: Tensor, grads: Tensor) -> Tensor:
    return summed_products(grads.flatten(0, 1), inputs.flatten(0, 1))
