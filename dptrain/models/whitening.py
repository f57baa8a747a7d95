"""Features made less alike, by what they are on images that show nothing."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

SMALLEST = 0.01  # added to each variance, as a share of their mean


class Whitening(nn.Module):
    """Principal components of features, their variances made less unequal: (N, ...) to (N, components).

    Each is divided by its standard deviation to the power of `power` (1 whitens; 0 leaves it as it is).
    Noise is alike in all directions, and clipping bounds the length of a gradient, so that directions
    in which features vary little are learned last and lost first. Mean and components are those on the
    `images` given, which must be public: no statistics of records are taken.

    Both are buffers and part of the weights, so that a release does not hang on how a machine finds them.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, mean: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("projection", projection)

    @classmethod
    @torch.no_grad()
    def of(cls, features: nn.Module, images: Tensor, *, components: int, power: float) -> Self:
        """The whitening of what `features` makes of the images, of which there must be more than components.

        Components have a mean square of 1 on the images.
        """
        made = torch.cat([features(part) for part in images.split(256)]).flatten(1)
        mean = made.mean(0)
        centred = made - mean
        # Through the images' products with each other, of which there are fewer than of coefficients.
        squares, mixtures = torch.linalg.eigh((centred @ centred.T).double() / len(images))
        squares, mixtures = squares.flip(0)[:components], mixtures.flip(1)[:, :components]
        directions = centred.T.double() @ mixtures / (squares * len(images)).sqrt()
        variance = centred.double().square().sum() / len(images)
        weights = (squares + SMALLEST * variance / centred.shape[1]) ** (-power / 2)
        weights = weights * (components / (squares * weights**2).sum()).sqrt()
        return cls(mean, (directions * weights).to(made.dtype))

    def forward(self, features: Tensor) -> Tensor:
        return (features.flatten(1) - self.mean) @ self.projection
