"""Features put together: of several kinds, or of an image and its mirror image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn


class SideBySide(nn.Module):
    """Several features of one image, each times a constant, in one row: (N, ...) to (N, sum of sizes)."""

    weights: Tensor

    def __init__(self, kinds: Sequence[nn.Module], weights: Tensor) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(kinds)
        self.register_buffer("weights", weights)

    @classmethod
    @torch.no_grad()
    def of(cls, kinds: Sequence[nn.Module], images: Tensor) -> Self:
        """Constants with which each kind varies as much as any other over these public images."""
        variances = [kind(images).flatten(1).var(0).sum() for kind in kinds]
        return cls(kinds, torch.stack(variances).rsqrt())

    def forward(self, inputs: Tensor) -> Tensor:
        made = [
            kind(inputs).flatten(1) * weight for kind, weight in zip(self.kinds, self.weights, strict=True)
        ]
        return torch.cat(made, dim=1)


class Mirrored(nn.Module):
    """The mean of the features of an image (N, C, H, W) and of its mirror image, the same for both.

    That a thing seen from the left is what it is from the right need then not be learned from records.

    >>> mirrored = Mirrored(nn.Flatten())
    >>> mirrored(torch.tensor([[[[1.0, 3.0]]]]))
    tensor([[2., 2.]])
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, inputs: Tensor) -> Tensor:
        made: Tensor = (self.features(inputs) + self.features(inputs.flip(-1))) / 2
        return made
