"""Features made less alike, by what they are on images that show nothing, and put together."""

from __future__ import annotations

from collections.abc import Sequence
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
