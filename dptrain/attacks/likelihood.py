"""What Poisson sampling does to a likelihood."""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_at(exponent: Tensor, sample_rate: float) -> Tensor:
    """Log-likelihood ratio of "takes part, sampled at rate q" when being sampled is worth `exponent`.

    log(1 - q + q exp(a)), without overflow.

    >>> sampled_at(torch.tensor([0.0, 800.0]), 0.5).tolist()  # doctest: +ELLIPSIS
    [0.0, 799.306...]
    """
    rate = torch.tensor(sample_rate, dtype=exponent.dtype, device=exponent.device)
    return torch.logaddexp(torch.log1p(-rate).expand_as(exponent), rate.log() + exponent)
