"""Features of a record, no longer than a constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Clipped(nn.Module):
    """Scales rows (N, features) that are longer than `norm` down to it, each by itself.

    >>> Clipped(5.0)(torch.tensor([[6.0, 8.0], [0.3, 0.4]]))
    tensor([[3.0000, 4.0000],
            [0.3000, 0.4000]])
    """

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return features * (self.norm / lengths.clamp(min=self.norm))

    def extra_repr(self) -> str:
        return f"norm={self.norm:g}"
