"""Images as a backbone was trained with them: its size, three channels, its normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.models.normalise import Normalise


class BackboneInputs(nn.Module):
    """Images (N, 1 or 3, H, W) with values in [0, 1] to normalised ones (N, 3, size, size).

    A size of None leaves them as large as they are.

    >>> import torch
    >>> BackboneInputs(size=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(torch.ones(2, 1, 8, 8)).shape
    torch.Size([2, 3, 4, 4])
    """

    def __init__(self, *, size: int | None, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.size = size
        self.normalise = Normalise(tuple(mean), tuple(std))

    def forward(self, images: Tensor) -> Tensor:
        if self.size is not None and tuple(images.shape[2:]) != (self.size, self.size):
            smaller = self.size < min(images.shape[2:])
            images = F.interpolate(
                images, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=smaller
            )
        normalised: Tensor = self.normalise(images.expand(-1, 3, -1, -1))
        return normalised

    def extra_repr(self) -> str:
        return f"size={self.size}"
