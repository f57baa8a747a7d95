"""Records, and how a data set is divided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dptrain.contracts.errors import DataError
from dptrain.contracts.rows import Chosen, Held, Rows, join


class Records(Dataset):
    """Labelled records: inputs (N, ...) float in declared bounds, labels (N,) int64.

    Labels are in memory; inputs are a tensor, or rows that are read when they are asked for. Of those
    `take` and `and_more` read none, and `inputs` reads them all: ask it of a few, as in
    `records.take(indices).inputs`, and go over many in `batches`.
    """

    def __init__(self, inputs: Tensor | Rows, labels: Tensor) -> None:
        self._rows: Rows = Held(inputs) if isinstance(inputs, Tensor) else inputs
        if self._rows.shape[0] != len(labels):
            raise DataError(f"{self._rows.shape[0]} inputs but {len(labels)} labels: give one label a record")
        self.labels = labels
        self._hashed: hashlib._Hash | None = None

    @property
    def inputs(self) -> Tensor:
        """The inputs of all these records, in memory."""
        return self._rows.inputs if isinstance(self._rows, Held) else self._rows.read(torch.arange(len(self)))

    @property
    def in_memory(self) -> bool:
        """Whether nothing needs to be read any more."""
        return isinstance(self._rows, Held)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._rows.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._rows.read(torch.tensor([index]))[0], self.labels[index]

    def take(self, indices: Tensor) -> Records:
        """The records at these positions, in this order."""
        rows = self._rows
        return Records(
            rows.inputs[indices] if isinstance(rows, Held) else Chosen(rows, indices), self.labels[indices]
        )

    def and_more(self, more: Records) -> Records:
        """These records and, after them, those."""
        return Records(join(self._rows, more._rows), torch.cat([self.labels, more.labels]))

    def labelled(self, labels: Tensor) -> Records:
        """The same inputs under other labels (N,)."""
        return Records(self._rows, labels)

    def read(self) -> Records:
        """These records, in memory."""
        return Records(self.inputs, self.labels)

    def batches(self, size: int = 1024) -> Iterator[Records]:
        """All of them in their order, `size` at a time, each batch in memory."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield Records(self._rows.read(torch.arange(start, stop)), self.labels[start:stop])

    def hashed(self) -> hashlib._Hash:
        """A SHA-256 that has taken in inputs and labels, the same wherever they are kept; reads them once."""
        if self._hashed is None:
            whole = hashlib.sha256()
            for batch in self.batches():
                whole.update(batch.inputs.contiguous().numpy().tobytes())
            whole.update(self.labels.contiguous().numpy().tobytes())
            self._hashed = whole
        return self._hashed.copy()


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
        return self.train.shape

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
