"""Images that show nothing: what is known of pictures before any record is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAVES, STROKES = 30, 3  # of each image
SEED = 20_260  # a public constant: every model that is built of these images is built of the same ones


def synthetic_images(count: int, shape: Sequence[int]) -> Tensor:
    """Images (count, C, H, W), half of them dead leaves and half strokes, of mean 0 and variance 1 about.

    >>> synthetic_images(4, (3, 8, 8)).shape
    torch.Size([4, 3, 8, 8])
    """
    rng = torch.Generator().manual_seed(SEED)
    half = count // 2
    return torch.cat(
        [(dead_leaves(count - half, shape, rng) - 0.5) / 0.29, (strokes(half, shape, rng) - 0.13) / 0.31]
    )


def dead_leaves(count: int, shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Ellipses that cover one another, of all sizes and colours, in (0, 1): (count, C, H, W).

    Occlusion and sizes distributed as 1 / r^3 give the statistics of natural images (Lee, Mumford and Huang
    2001, "Occlusion models for natural images").
    """
    channels, rows, columns = shape
    y, x = _grid(rows, columns)
    smallest, largest = min(rows, columns) / 14, min(rows, columns) / 2

    def draw(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *(sizes or (1, 1, 1)), generator=rng)

    images = draw(0, 1, channels, 1, 1).expand(count, channels, rows, columns)
    for _ in range(LEAVES):
        radius = draw(largest**-2, smallest**-2) ** -0.5
        centre_y, centre_x = draw(-0.15 * rows, 1.15 * rows), draw(-0.15 * columns, 1.15 * columns)
        angle, aspect = draw(0, math.pi), draw(0.1, 1)
        down, right = y - centre_y, x - centre_x
        along, across = down * angle.cos() + right * angle.sin(), right * angle.cos() - down * angle.sin()
        inside = (radius - (along**2 + (across / aspect) ** 2).sqrt()).clamp(-0.5, 0.5) + 0.5
        images = images * (1 - inside) + draw(0, 1, channels, 1, 1) * inside
    return images


def strokes(count: int, shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Curved bright lines on black, in (0, 1): (count, C, H, W), all channels alike."""
    channels, rows, columns = shape
    y, x = _grid(rows, columns)
    size = min(rows, columns)
    images = torch.zeros(count, 1, rows, columns)
    for _ in range(STROKES):
        start, bend, end = (0.14 + 0.72 * torch.rand(3, 2, count, 1, 1, 1, generator=rng)) * size
        width = (0.03 + 0.04 * torch.rand(count, 1, 1, 1, generator=rng)) * size
        for place in torch.linspace(0, 1, 24).tolist():  # a quadratic Bézier curve
            along_y, along_x = (1 - place) ** 2 * start + 2 * place * (1 - place) * bend + place**2 * end
            distance = ((y - along_y) ** 2 + (x - along_x) ** 2).sqrt()
            images = torch.maximum(images, (width + 0.5 - distance).clamp(0, 1))
    return images.expand(count, channels, rows, columns)


def _grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, (rows, columns) each."""
    y, x = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    return y, x
