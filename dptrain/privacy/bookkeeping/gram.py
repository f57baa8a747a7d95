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


def norms_of_formed(norms: Tensor, lengths: Tensor) -> Tensor:
    """Norms (records,) of gradients that are formed once to be measured, once more to be added.

    `lengths` are, for each record, the sum of the lengths of what was added up, L. Where its parts cancel,
    a gradient is rounding alone, and the other order of sums may round it to something longer: by k eps L,
    k of a few. Measured as the root of norm^2 + (256 eps L)^2, what is added passes what was measured
    by at most the root of 1 + (k / 256)^2 times: 2^-13 for a k of 4. Others change by nothing that shows.
    """
    return torch.hypot(norms, 256 * torch.finfo(norms.dtype).eps * lengths)
