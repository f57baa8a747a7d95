"""The bias that Opacus' attention appends to a sequence."""

from __future__ import annotations

from opacus.layers.dp_multihead_attention import SequenceBias
from torch import Tensor, nn

from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Use, sum_copies


def sequence_bias(use: Use) -> dict[Tensor, Share]:
    """Share of the bias (features,): the gradient at the last position, wherever the axis of records is."""
    layer = use.layer
    assert isinstance(layer, SequenceBias)
    rows = use.dy[:, -1] if layer.batch_first else use.dy[-1]
    return {layer.bias: Instantiated.of([sum_copies(rows, use.copies)])}


def records_axis(layer: nn.Module) -> int:
    """The axis of a layer's output along which records lie."""
    return 1 if isinstance(layer, SequenceBias) and not layer.batch_first else 0
