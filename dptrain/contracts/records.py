"""Records, and how a data set is divided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dptrain.contracts.devices import staged
from dptrain.contracts.errors import DataError
from dptrain.contracts.rows import Chosen, Held, Rows, join
from dptrain.contracts.served import Raw
from dptrain.contracts.task import Task
from dptrain.contracts.trees import Form, Forms, by_name, leaves, moved

ONE = ""  # the name of inputs that have none


class Records(Dataset):
    """Labelled records: inputs (N, ...), floats or int64 in declared bounds, and labels (N, ...).

    Inputs are one tensor, or several by name, such as an image and an age. Labels are what the data's task
    says, a class (N,) int64 where it says nothing.

    Labels are in memory; inputs are tensors, or rows that are read when they are asked for. Of those
    `take` and `and_more` read none, and `inputs` reads them all: ask it of a few, as in
    `records.take(indices).inputs`, and go over many in `batches`.
    """

    def __init__(self, inputs: Tensor | Rows | Mapping[str, Tensor | Rows], labels: Tensor) -> None:
        named = inputs if isinstance(inputs, Mapping) else {ONE: inputs}
        self._rows: dict[str, Rows] = {
            name: Held(rows) if isinstance(rows, Tensor) else rows for name, rows in named.items()
        }
        if not isinstance(labels, Tensor) or labels.ndim == 0:
            raise DataError("labels are no tensor of one a record; give one")
        for rows in self._rows.values():
            if not rows.shape:
                raise DataError("inputs are a single number; give a tensor of one row a record")
            if rows.shape[0] != len(labels):
                raise DataError(f"{rows.shape[0]} inputs but {len(labels)} labels: give one label a record")
        self.labels = labels
        self._digests: Tensor | None = None

    @property
    def inputs(self) -> Any:
        """The inputs of all these records, in memory: a tensor, or several by name."""
        every = torch.arange(len(self))
        return _one_or_named(
            {n: rows.inputs if isinstance(rows, Held) else rows.read(every) for n, rows in self._rows.items()}
        )

    @property
    def held(self) -> Mapping[str, Tensor]:
        """The tensors of inputs that are in memory, by name."""
        return {name: rows.inputs for name, rows in self._rows.items() if isinstance(rows, Held)}

    @property
    def in_memory(self) -> bool:
        """Whether nothing needs to be read any more."""
        return all(isinstance(rows, Held) for rows in self._rows.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs; none where there is one tensor."""
        return () if ONE in self._rows else tuple(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input; () where inputs have names."""
        return () if self.names else self._rows[ONE].shape[1:]

    @property
    def shapes(self) -> Any:
        """Shape of one input, by name where inputs have names."""
        return _one_or_named({name: rows.shape[1:] for name, rows in self._rows.items()})

    @property
    def whole(self) -> Any:
        """Whether an input holds whole numbers (int64), such as token ids; by name where they have names."""
        return _one_or_named({name: _is_whole(rows) for name, rows in self._rows.items()})

    def blank(self, count: int) -> Any:
        """Inputs of so many records that are all zero, as a model would take them."""
        return _one_or_named(
            {
                name: torch.zeros(count, *rows.shape[1:], dtype=torch.int64 if _is_whole(rows) else None)
                for name, rows in self._rows.items()
            }
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        one = self._read(torch.tensor([index]))
        return by_name(lambda rows: rows[0], one), self.labels[index]

    def take(self, indices: Tensor) -> Records:
        """The records at these positions, in this order."""
        inputs = {
            name: rows.inputs[indices] if isinstance(rows, Held) else Chosen(rows, indices)
            for name, rows in self._rows.items()
        }
        digests = None if self._digests is None else self._digests[indices]
        return Records(inputs, self.labels[indices])._known_as(digests)

    def and_more(self, more: Records) -> Records:
        """These records and, after them, those."""
        both = self._digests, more._digests
        digests = None if both[0] is None or both[1] is None else torch.cat([both[0], both[1]])
        rows = {name: join(mine, more._rows[name]) for name, mine in self._rows.items()}
        return Records(rows, torch.cat([self.labels, more.labels]))._known_as(digests)

    def labelled(self, labels: Tensor) -> Records:
        """The same inputs under other labels (N, ...)."""
        return Records(self._rows, labels)._known_as(self._digests)

    def read(self) -> Records:
        """These records, in memory."""
        return Records(self.inputs, self.labels)._known_as(self._digests)

    def staged(self, device: torch.device) -> Records:
        """These records, in memory from which this device takes them while it computes."""
        stage = partial(staged, device=device)
        return Records(by_name(stage, self.inputs), stage(self.labels))._known_as(self._digests)

    def to(self, device: torch.device, dtype: torch.dtype) -> Records:
        """These records on a device, all but whole numbers in this type."""
        labels = moved(self.labels, device, dtype)
        return Records(moved(self.inputs, device, dtype), labels)._known_as(self._digests)

    def batches(self, size: int = 1024) -> Iterator[Records]:
        """All of them in their order, `size` at a time, each batch in memory."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield Records(self._read(torch.arange(start, stop)), self.labels[start:stop])

    def digests(self) -> Tensor:
        """A digest of each record's inputs, bit for bit, without the label: (N, 2) int64.

        The same wherever inputs are kept. Reads them once: what is taken from these records afterwards
        knows its digests. Of ten million inputs, two share one with a chance of 1e-24.
        """
        if self._digests is None:
            found = [torch.empty(0, 2, dtype=torch.int64)]
            for batch in self.batches():
                columns = [one.reshape(len(batch), -1).contiguous().numpy() for one in leaves(batch.inputs)]
                # Shapes are the same for every record, so that what lies side by side is told apart.
                words = b"".join(
                    hashlib.blake2b(b"".join(row.tobytes() for row in rows), digest_size=16).digest()
                    for rows in zip(*columns, strict=True)
                )
                found.append(torch.frombuffer(bytearray(words), dtype=torch.int64).view(-1, 2))
            self._digests = torch.cat(found)
        return self._digests

    def hashed(self) -> hashlib._Hash:
        """A SHA-256 that has taken in inputs and labels, in order, the same wherever they are kept."""
        whole = hashlib.sha256(self.digests().contiguous().numpy().tobytes())
        whole.update(self.labels.contiguous().numpy().tobytes())
        return whole

    def _read(self, indices: Tensor) -> Any:
        return _one_or_named({name: rows.read(indices) for name, rows in self._rows.items()})

    def _known_as(self, digests: Tensor | None) -> Records:
        self._digests = digests
        return self


def _is_whole(rows: Rows) -> bool:
    return isinstance(rows, Held) and rows.inputs.dtype == torch.int64


def _one_or_named(found: dict[str, Any]) -> Any:
    return found.get(ONE, found)


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
    constants, never computed from the records. Inputs are normalised by `mean` and `std` before the
    model sees them; whole numbers, and inputs that have names, reach it as they are.
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
    task: Task | None = None  # what labels are; None: one of `classes`
    bounds_by_name: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of inputs with names
    # Of the training records; records of one group share an id, which is the same whatever other records
    # there are (`stable_ids` of names): by it, and the key, is decided what becomes of the group.
    group_ids: Tensor | None = None
    holdout_group_ids: Tensor | None = None  # of the held-out records, likewise; no group is in both
    test_group_ids: Tensor | None = None  # of the test records; None: each its own, or not known whose it is
    group_word: str | None = None  # what a group is: patient, customer, pupil
    public: Records | None = None  # like the others, but of nobody who must be protected
    public_origin: str | None = None  # what they are, where it is not the data set that declares them public
    public_seen: bool = False  # whether the model is trained on their inputs
    # Of the test records, by what they are told apart by, such as sex or scanner: the value of each record.
    subgroups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sensitive: tuple[Sensitive, ...] = ()  # of tables: the columns that attribute inference aims at
    raw: Raw | None = None  # what a record was before it became an input, for whom the model is served
    # By which units are assigned to parts, probes and slots; None: the key that the seed stands for.
    key: bytes | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return self.train.shape

    @property
    def of_classes(self) -> bool:
        """Whether labels are classes, one a record."""
        return self.task is None or self.task.of_classes

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def forms(self) -> Forms:
        """What inputs are like, by name where they have names."""
        train = self.train
        if not train.names:
            return Form(shape=train.shape, bounds=self.bounds, whole=train.whole)
        return {
            name: Form(
                shape=train.shapes[name],
                bounds=self.bounds_by_name.get(name, self.bounds),
                whole=train.whole[name],
            )
            for name in train.names
        }


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Artificial units: each has a gradient of length `norm` along a parameter of its own ("Dirac").

    `coordinates` (canaries,) are positions among the trainable parameters, in the order of
    `model.parameters()`, flattened. About half of the canaries take part in the
    training, each by a fair random choice.
    """

    coordinates: Tensor
    norm: float  # before clipping

    def __len__(self) -> int:
        return len(self.coordinates)
