"""Embeddings: of each record only the rows that it looked up, never the whole table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dptrain.privacy.bookkeeping.shares import Looked, Share
from dptrain.privacy.bookkeeping.uses import Use


def embedding(use: Use) -> dict[Tensor, Share]:
    """Share of the table (entries, width), looked up by whole numbers (n, ...)."""
    layer = use.layer
    assert isinstance(layer, nn.Embedding)
    places = use.inputs[0].reshape(use.records, -1)
    values = use.dy.reshape(-1, layer.embedding_dim)
    owners = torch.arange(use.records, device=places.device).unsqueeze(1)
    keys = (owners * layer.num_embeddings + places).flatten()
    if layer.padding_idx is not None:
        looked = places.flatten() != layer.padding_idx  # PyTorch gives the padding's row no gradient
        keys, values = keys[looked], values[looked]
    # A record's lookups of the same row add up before they are measured.
    distinct, entry = keys.unique(return_inverse=True)
    summed = values.new_zeros(len(distinct), layer.embedding_dim).index_add(0, entry, values)
    return {
        layer.weight: Looked(
            owners=distinct // layer.num_embeddings,
            places=distinct % layer.num_embeddings,
            values=summed,
            records=use.records,
            shape=layer.weight.shape,
        )
    }
