"""Drawn photographs: colours, shading, texture and blur of natural images, and nobody's picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SEED = 20_261  # a public constant: every model that is built of these images is built of the same ones
LEAVES, SMALLEST = 40, 1.5  # of each image; pixels
CHROMA, SHADE, TEXTURE, BOXES = 0.12, 0.5, 0.12, 0.3  # spread of colours, most shading, most texture; a share
CHUNK = 1000  # images drawn at once


def photographs(count: int, shape: Sequence[int]) -> Tensor:
    """Images (count, C, H, W) of mean 0 and variance 1 about.

    Dead leaves, as in `synthetic.dead_leaves`, of colours that differ more in brightness than in hue, each
    shaded in some direction, with a texture whose spectrum falls as a power of the frequency, and with edges
    more or less out of focus. Spectrum, correlation of colours and kurtosis of gradients are about those of
    natural images (Ruderman, Cronin and Chiao 1998, "Statistics of cone responses to natural images"; Lee,
    Mumford and Huang 2001, "Occlusion models for natural images").

    >>> photographs(2, (3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    rng = torch.Generator().manual_seed(SEED)
    drawn = [_Sheet(min(CHUNK, count - start), shape, rng).image() for start in range(0, count, CHUNK)]
    return (torch.cat(drawn) - 0.5) / 0.25


class _Sheet:
    """Several images drawn at once; every random number has one value an image."""

    def __init__(self, count: int, shape: Sequence[int], rng: torch.Generator) -> None:
        self.count, self.rng = count, rng
        self.channels, self.rows, self.columns = shape
        grid = torch.arange(float(self.rows)), torch.arange(float(self.columns))
        self.y, self.x = torch.meshgrid(*grid, indexing="ij")

    def draw(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, generator=self.rng)

    def image(self) -> Tensor:
        """Images in [0, 1]: a background, leaves on it, then contrast and brightness of the whole."""
        made = self.surface()
        for _ in range(LEAVES):
            inside = self.leaf()
            made = made * (1 - inside) + self.surface() * inside
        contrast, brightness = self.draw(0.5, 1.2), self.draw(-0.15, 0.15)
        return ((made - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)

    def leaf(self) -> Tensor:
        """How much of each pixel an ellipse or a box covers, (count, 1, H, W): sizes fall as 1 / r^3."""
        size = min(self.rows, self.columns)
        radius = self.draw((size / 2) ** -2, SMALLEST**-2) ** -0.5
        down = self.y - self.draw(-0.15 * self.rows, 1.15 * self.rows)
        right = self.x - self.draw(-0.15 * self.columns, 1.15 * self.columns)
        angle, aspect = self.draw(0, math.pi), self.draw(0.15, 1)
        along = down * angle.cos() + right * angle.sin()
        across = (right * angle.cos() - down * angle.sin()) / aspect
        box = self.draw(0, 1) < BOXES
        distance = torch.where(box, torch.maximum(along.abs(), across.abs()), (along**2 + across**2).sqrt())
        return ((radius - distance) / (2 * self.draw(0.5, 2))).clamp(-0.5, 0.5) + 0.5

    def surface(self) -> Tensor:
        """A colour, shaded in one direction, with a texture: (count, C, H, W)."""
        towards = self.draw(0, 2 * math.pi)
        slope = self.x * towards.cos() / self.columns + self.y * towards.sin() / self.rows
        shade = (slope - slope.mean((2, 3), keepdim=True)) * self.draw(0, SHADE)
        return self.colour() + shade + self.texture() * self.draw(0, TEXTURE)

    def colour(self) -> Tensor:
        """Brightness alike in all channels, a slope from the first to the last, and some of a bend."""
        place = torch.linspace(1, -1, self.channels).view(1, -1, 1, 1)
        slope, bend = place - place.mean(), place.square().mean() - place.square()
        warmth, tint = (CHROMA * torch.randn(2, self.count, 1, 1, 1, generator=self.rng)).unbind()
        return self.draw(0, 1) + slope * warmth + 0.6 * bend * tint

    def texture(self) -> Tensor:
        """Noise (count, 1, H, W) of variance 1 whose amplitude falls as frequency to some power."""
        rows, columns = torch.fft.fftfreq(self.rows), torch.fft.fftfreq(self.columns)
        frequency = (
            (rows[:, None] ** 2 + columns[None] ** 2).sqrt().clamp(min=1 / max(self.rows, self.columns))
        )
        white = torch.randn(self.count, 1, self.rows, self.columns, generator=self.rng)
        coloured = torch.fft.ifft2(torch.fft.fft2(white) * frequency ** -self.draw(0.3, 1.6)).real
        return (coloured - coloured.mean((2, 3), keepdim=True)) / coloured.std((2, 3), keepdim=True)
