"""Inputs that are read when they are asked for, so that there may be more of them than memory holds."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Rows(Protocol):
    """Inputs of records, kept elsewhere: the same row reads the same each time, from any thread."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...), as of the tensor that holding them all would take."""

    def read(self, indices: Tensor) -> Tensor:
        """The inputs at these positions, in this order: (n, ...) float in declared bounds."""


class Held:
    """Rows of a tensor in memory."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape)

    def read(self, indices: Tensor) -> Tensor:
        return self.inputs[indices]


class Chosen:
    """Some rows of others, by their positions there."""

    def __init__(self, rows: Rows, indices: Tensor) -> None:
        self.rows, self.indices = rows, indices
        if isinstance(rows, Chosen):  # positions of positions are looked up once, not at each reading
            self.rows, self.indices = rows.rows, rows.indices[indices]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.indices), *self.rows.shape[1:])

    def read(self, indices: Tensor) -> Tensor:
        return self.rows.read(self.indices[indices])


class Joined:
    """Rows, and after them others of the same shape."""

    def __init__(self, first: Rows, second: Rows) -> None:
        self.first, self.second = first, second

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.first.shape[0] + self.second.shape[0], *self.first.shape[1:])

    def read(self, indices: Tensor) -> Tensor:
        border = self.first.shape[0]
        later = indices >= border
        if not later.any():
            return self.first.read(indices)
        if later.all():
            return self.second.read(indices - border)
        earlier_rows, later_rows = self.first.read(indices[~later]), self.second.read(indices[later] - border)
        together = earlier_rows.new_empty(len(indices), *earlier_rows.shape[1:])
        together[~later], together[later] = earlier_rows, later_rows
        return together


def join(first: Rows, second: Rows) -> Rows:
    """Both, in memory where both are."""
    if isinstance(first, Held) and isinstance(second, Held):
        return Held(torch.cat([first.inputs, second.inputs]))
    return Joined(first, second)
