"""What attacks by queries share: coordinates to search in, and snapshots on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dptrain.contracts import Targets

RECORDS = 1000  # of the adversary's own, of which directions are learnt
SNAPSHOTS = 8  # of a trail, at query counts that double


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Few coordinates of an input, scaled so that standard normal ones look like an input.

    Images are sums of their lowest cosine waves, weaker the finer they are, as natural images are
    (Field 1987): black-box searches need far fewer queries there than among pixels (Guo, Frank and
    Weinberger 2019, "Low frequency adversarial perturbation"). Other inputs are searched as they
    are. The origin is the declared mean.
    Or, `in_range`, coordinates are along the directions in which the adversary's own records differ most, and
    as long: sums of them lie where what people ask about does. The origin is the mean of those records.
    """

    targets: Targets
    frequencies: int  # along each side
    decay: float  # a wave of frequency f is weaker by (1 + f)^-decay
    contrast: float  # standard deviation of a pixel before it is cut to the bounds, in their widths
    in_range: bool = False  # then contrast is in standard deviations of the records

    @property
    def size(self) -> int:
        """The number of coordinates."""
        shape = self.targets.shape
        if self.in_range:
            return len(self._directions)
        return shape[0] * len(self._waves) if len(shape) == 3 else math.prod(shape)

    def inputs(self, coordinates: Tensor) -> Tensor:
        """Coordinates (..., size) as inputs (..., *shape) in bounds."""
        low, high = self.targets.bounds
        shape, before = self.targets.shape, coordinates.shape[:-1]
        if self.in_range:
            away = self.contrast * coordinates @ self._directions
            return (self._centre + away).reshape(*before, *shape).clamp(low, high)
        if len(shape) == 3:
            coordinates = coordinates.reshape(*before, shape[0], -1) @ self._waves
        offset = self.contrast * (high - low) * coordinates.reshape(*before, *shape)
        return (self._mean + offset).clamp(low, high)

    @cached_property
    def _mean(self) -> Tensor:
        shape = self.targets.shape
        return torch.tensor(self.targets.mean).view(-1, *[1] * (len(shape) - 1)).expand(shape)

    @cached_property
    def _rows(self) -> Tensor:
        """Some of the adversary's own records as rows (records, width)."""
        return self.targets.background.inputs[:RECORDS].flatten(1).float()

    @cached_property
    def _centre(self) -> Tensor:
        return self._rows.mean(0)

    @cached_property
    def _directions(self) -> Tensor:
        """Principal directions of the records, as long as their standard deviations: (size, width)."""
        away = self._rows - self._centre
        many = min(self.frequencies**2, len(away) - 1, away.shape[1])
        _, lengths, directions = torch.linalg.svd(away, full_matrices=False)
        return lengths[:many, None] / math.sqrt(len(away) - 1) * directions[:many]

    @cached_property
    def _waves(self) -> Tensor:
        """(coordinates of a channel, height * width), of unit variance a pixel when summed at random."""
        _, height, width = self.targets.shape
        down, across = _cosines(height, self.frequencies), _cosines(width, self.frequencies)
        frequency = (torch.arange(len(down))[:, None] ** 2 + torch.arange(len(across)) ** 2).sqrt()
        strength = (1 + frequency) ** -self.decay
        strength = strength * (height * width / strength.square().sum()).sqrt()
        return torch.einsum("ab,ay,bx->abyx", strength, down, across).flatten(2).flatten(0, 1)


def _cosines(side: int, frequencies: int) -> Tensor:
    """The lowest rows of the orthonormal discrete cosine transform: (frequencies, side)."""
    frequency = torch.arange(min(frequencies, side))
    waves = math.sqrt(2 / side) * (math.pi * frequency[:, None] * (torch.arange(side) + 0.5) / side).cos()
    waves[0] /= math.sqrt(2)
    return waves


class Trail:
    """Snapshots of what a search has in hand, at query counts that double up to the budget."""

    def __init__(self, budget: int) -> None:
        self._marks = sorted({math.ceil(budget / 2**n) for n in range(SNAPSHOTS)})
        self._kept: list[tuple[int, Tensor]] = []

    def due(self, spent: int) -> bool:
        """Whether a snapshot is worth its making."""
        return bool(self._marks) and spent >= self._marks[0]

    def keep(self, spent: int, inputs: Tensor) -> None:
        """Remember these inputs as what this many queries brought."""
        self._marks = [mark for mark in self._marks if mark > spent]
        self._kept = [(when, what) for when, what in self._kept if when < spent] + [(spent, inputs)]

    def end(self, spent: int, inputs: Tensor) -> tuple[tuple[int, Tensor], ...]:
        """All snapshots, the last one being the outcome."""
        self.keep(spent, inputs)
        return tuple(self._kept)
