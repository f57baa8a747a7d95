"""Normalisation by declared constants, as the first layer of every model."""

from __future__ import annotations

from torch import Tensor, nn


class Normalise(nn.Module):
    """Subtract `mean` and divide by `std`, one constant a channel.

    It holds no parameters and no buffers, so that it mixes no records and a released model
    takes inputs in their natural bounds.

    >>> import torch
    >>> Normalise(mean=(0.5,), std=(0.25,))(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean = tuple(mean)
        self.std = tuple(std)

    def forward(self, inputs: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (inputs.dim() - 2)
        mean = inputs.new_tensor(self.mean).view(shape)
        std = inputs.new_tensor(self.std).view(shape)
        return (inputs - mean) / std

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"
