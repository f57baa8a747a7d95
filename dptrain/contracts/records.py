"""Records, and how a data set is divided."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dptrain.contracts.errors import DataError


class Records(Dataset):
    """Labelled records held in memory: inputs (N, ...) float in declared bounds, labels (N,) int64."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        if len(inputs) != len(labels):
            raise DataError(f"{len(inputs)} inputs but {len(labels)} labels: give one label a record")
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def take(self, indices: Tensor) -> Records:
        """The records at these positions, in this order."""
        return Records(self.inputs[indices], self.labels[indices])

    def and_more(self, more: Records) -> Records:
        """These records and, after them, those."""
        return Records(torch.cat([self.inputs, more.inputs]), torch.cat([self.labels, more.labels]))


@dataclass(frozen=True, kw_only=True)
class Sensitive:
    """A column that must not be inferred: where it sits in an input, how each of its values is encoded."""

    name: str
    columns: tuple[int, ...]  # positions in a flat input
    values: Tensor  # (values, columns)
    names: tuple[str, ...]  # of the values

    def hide(self, inputs: Tensor) -> Tensor:
        """These inputs (N, width) with the column blanked."""
        hidden = inputs.clone()
        hidden[:, list(self.columns)] = 0.0
        return hidden

    def fill(self, inputs: Tensor, value: int) -> Tensor:
        """These inputs (N, width) with the column set to one of its values."""
        filled = inputs.clone()
        filled[:, list(self.columns)] = self.values[value].to(inputs)
        return filled

    def read(self, inputs: Tensor) -> Tensor:
        """The value that each input (N, width) holds, the nearest one: (N,) int64."""
        return torch.cdist(inputs[:, list(self.columns)], self.values.to(inputs)).argmin(1)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set, divided: what is trained on, what is held out, what utility is measured on.

    `train` and `holdout` are drawn alike; `bounds`, `mean` and `std` are declared public
    constants, never computed from the records.
    """

    name: str
    source: str
    train: Records
    holdout: Records
    test: Records
    classes: tuple[str, ...]
    bounds: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_prior: tuple[float, ...] | None = None  # declared class frequencies, where they are unequal
    group_ids: Tensor | None = None  # of the training records; records of one patient share an id
    holdout_group_ids: Tensor | None = None  # of the held-out records, likewise; no patient is in both
    public: Records | None = None
    sensitive: tuple[Sensitive, ...] = ()  # of tables: the columns that attribute inference aims at

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Artificial units: each has a gradient of length `norm` along a parameter of its own ("Dirac").

    `coordinates` (canaries,) are positions among the trainable parameters, in the order of
    `model.parameters()`, flattened. About half of the canaries, by a coin each, take part in the training.
    """

    coordinates: Tensor
    norm: float  # before clipping

    def __len__(self) -> int:
        return len(self.coordinates)
