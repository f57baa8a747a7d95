"""Norms from Gram matrices, never too small."""

from __future__ import annotations

import torch
from torch import Tensor


def norms_from(products: Tensor, lengths: Tensor) -> Tensor:
    """Norms (records,) from squared norms and, for each record, the sum of the lengths of what was added up.

    A gradient whose parts cancel has a square that rounding may swallow or turn negative; a norm
    too small would let the record through unclipped. The most that rounding takes is added back.
    """
    slack = 4 * torch.finfo(products.dtype).eps * lengths.square()
    return (products + slack).clamp(min=0).sqrt()
