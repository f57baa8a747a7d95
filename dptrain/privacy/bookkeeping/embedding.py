"""Embeddings, and bags of them: of each record only the rows that it looked up, never the whole table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dptrain.privacy.bookkeeping.shares import Looked, Share
from dptrain.privacy.bookkeeping.uses import NoRule, Use

if TYPE_CHECKING:
    from dptrain.privacy.bookkeeping.tape import Tape


def embedding(use: Use) -> dict[Tensor, Share]:
    """Share of the table (entries, width), looked up by whole numbers (n, ...)."""
    layer = use.layer
    assert isinstance(layer, nn.Embedding)
    places = use.inputs[0].reshape(use.records, -1)
    values = use.dy.reshape(-1, layer.embedding_dim)
    owners = torch.arange(use.records, device=places.device).unsqueeze(1).expand_as(places)
    return {layer.weight: _looked(layer, owners.flatten(), places.flatten(), values, use.records)}


def bag(
    layer: nn.EmbeddingBag,
    tape: Tape,
    inputs: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    """The outputs (bags, width) of `nn.EmbeddingBag`; there are as many bags a record for each."""
    output = nn.EmbeddingBag.forward(layer, inputs, offsets, per_sample_weights)
    places, bags = _entries(layer, inputs, offsets)
    weights = None if per_sample_weights is None else per_sample_weights.detach().flatten()

    def rule(use: Use) -> dict[Tensor, Share]:
        values, looked, owners = use.dy[bags], places, bags
        if layer.mode == "max":
            # In each coordinate, all of the gradient goes to the row that was the largest there.
            looked = _largest(layer, places, bags, len(use.dy)).flatten()
            width = layer.embedding_dim
            values = torch.diag_embed(use.dy).reshape(-1, width)
            owners = torch.arange(len(use.dy), device=bags.device).repeat_interleave(width)
            values, looked, owners = values[looked >= 0], looked[looked >= 0], owners[looked >= 0]
        elif layer.mode == "mean":
            counted = torch.ones_like(bags) if layer.padding_idx is None else places != layer.padding_idx
            sizes = bags.new_zeros(len(use.dy)).index_add_(0, bags, counted.to(bags)).clamp(min=1)
            values = values / sizes[bags].unsqueeze(1)
        elif weights is not None:
            values = values * weights.to(values).unsqueeze(1)
        return {layer.weight: _looked(layer, owners // use.copies, looked, values, use.records)}

    return tape.tap(layer, output, (), rule, (layer.weight,), axis=0)


def _entries(layer: nn.EmbeddingBag, inputs: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is looked up, all in a row, and to which bag each entry belongs."""
    if inputs.dim() == 2:
        rows = torch.arange(len(inputs), device=inputs.device).repeat_interleave(inputs.shape[1])
        return inputs.flatten(), rows
    if offsets is None:
        raise NoRule("a list of entries without offsets")
    starts = offsets[:-1] if layer.include_last_offset else offsets
    at = torch.arange(len(inputs), device=inputs.device)
    return inputs, torch.searchsorted(starts.contiguous(), at, right=True) - 1


def _largest(layer: nn.EmbeddingBag, places: Tensor, bags: Tensor, count: int) -> Tensor:
    """Which row is the largest of its bag in each coordinate: (bags, width); -1 where a bag is empty."""
    table = layer.weight.detach()
    if layer.padding_idx is not None:
        kept = places != layer.padding_idx
        places, bags = places[kept], bags[kept]
    starts = torch.searchsorted(bags.contiguous(), torch.arange(count, device=bags.device))
    found = torch.full((count, table.shape[1]), -1, dtype=torch.int64, device=bags.device)
    for number, entries in enumerate(places.tensor_split(starts[1:].cpu())):
        if len(entries):
            found[number] = entries[table[entries].argmax(0)]
    return found


def _looked(
    layer: nn.Embedding | nn.EmbeddingBag, owners: Tensor, places: Tensor, values: Tensor, records: int
) -> Looked:
    """From lookups (entries,) of records and rows, and their gradients (entries, width)."""
    if layer.padding_idx is not None:
        looked = places != layer.padding_idx  # PyTorch gives the padding's row no gradient
        owners, places, values = owners[looked], places[looked], values[looked]
    keys = owners * layer.num_embeddings + places
    # A record's lookups of the same row add up before they are measured.
    distinct, entry, counts = keys.unique(return_inverse=True, return_counts=True)
    summed = values.new_zeros(len(distinct), values.shape[1]).index_add(0, entry, values)
    if layer.scale_grad_by_freq and getattr(layer, "mode", "") != "max":
        # By how often the record itself has looked the row up: another record must have no say in it.
        summed = summed / counts.unsqueeze(1)
    return Looked(
        owners=distinct // layer.num_embeddings,
        places=distinct % layer.num_embeddings,
        values=summed,
        records=records,
        shape=layer.weight.shape,
    )
