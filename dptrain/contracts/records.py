"""Records, and how a data set is divided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

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
        self._digests: Tensor | None = None

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
        inputs = rows.inputs[indices] if isinstance(rows, Held) else Chosen(rows, indices)
        digests = None if self._digests is None else self._digests[indices]
        return Records(inputs, self.labels[indices])._known_as(digests)

    def and_more(self, more: Records) -> Records:
        """These records and, after them, those."""
        both = self._digests, more._digests
        digests = None if both[0] is None or both[1] is None else torch.cat([both[0], both[1]])
        joined = Records(join(self._rows, more._rows), torch.cat([self.labels, more.labels]))
        return joined._known_as(digests)

    def labelled(self, labels: Tensor) -> Records:
        """The same inputs under other labels (N,)."""
        return Records(self._rows, labels)._known_as(self._digests)

    def read(self) -> Records:
        """These records, in memory."""
        return Records(self.inputs, self.labels)._known_as(self._digests)

    def batches(self, size: int = 1024) -> Iterator[Records]:
        """All of them in their order, `size` at a time, each batch in memory."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield Records(self._rows.read(torch.arange(start, stop)), self.labels[start:stop])

    def digests(self) -> Tensor:
        """A digest of each record's inputs, bit for bit, without the label: (N, 2) int64.

        The same wherever inputs are kept. Reads them once: what is taken from these records afterwards
        knows its digests. Of ten million inputs, two share one with a chance of 1e-24.
        """
        if self._digests is None:
            found = [torch.empty(0, 2, dtype=torch.int64)]
            for batch in self.batches():
                rows = batch.inputs.flatten(1).contiguous().numpy()
                words = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
                found.append(torch.frombuffer(bytearray(words), dtype=torch.int64).view(-1, 2))
            self._digests = torch.cat(found)
        return self._digests

    def hashed(self) -> hashlib._Hash:
        """A SHA-256 that has taken in inputs and labels, in order, the same wherever they are kept."""
        whole = hashlib.sha256(self.digests().contiguous().numpy().tobytes())
        whole.update(self.labels.contiguous().numpy().tobytes())
        return whole

    def _known_as(self, digests: Tensor | None) -> Records:
        self._digests = digests
        return self


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
    # Of the training records; records of one patient share an id, which is the same whatever other records
    # there are (`stable_ids` of names): by it, and the key, is decided what becomes of the patient.
    group_ids: Tensor | None = None
    holdout_group_ids: Tensor | None = None  # of the held-out records, likewise; no patient is in both
    public: Records | None = None
    sensitive: tuple[Sensitive, ...] = ()  # of tables: the columns that attribute inference aims at
    # By which units are assigned to parts, probes and slots; None: the key that the seed stands for.
    key: bytes | None = field(default=None, repr=False)

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
