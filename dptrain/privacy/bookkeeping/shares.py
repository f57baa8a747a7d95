"""What each record adds to the gradient of one parameter, in the form that is cheapest to hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from dptrain.contracts import devices
from dptrain.privacy.clipping import scaled, weighted_sum

# Numbers in a block of gradients: few enough for a core's cache, and for the allocator to keep their memory.
BLOCK = 600_000
LARGEST_BLOCK = 8_000_000  # what a block may grow to for a record a thread: the allocator keeps no more
BLOCK_ELSEWHERE = 100_000_000  # a GPU wants few large pieces; this bounds what they take


def lengths(rows: Tensor) -> Tensor:
    """Euclidean norm of each row (rows, ...): (rows,)."""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


def in_blocks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors (records, ...) in parts of a few records, each of which has gradients of `size` numbers."""
    records = len(tensors[0])
    if tensors[0].device.type == "cpu":
        # A thread forms a record at a time, so that a block of other than a multiple leaves some idle.
        threads = torch.get_num_threads()
        if size * threads > LARGEST_BLOCK:
            threads = 1
        rounds = math.ceil(records / threads)
        blocks = math.ceil(rounds / max(1, round(BLOCK / (size * threads))))
        block = threads * max(1, math.ceil(rounds / max(1, blocks)))
    else:
        block = math.ceil(BLOCK_ELSEWHERE / size)
    return zip(*(tensor.split(block) for tensor in tensors), strict=True)


class Share(Protocol):
    """The records' gradients with respect to one parameter, be they ever formed or not."""

    @property
    def norms(self) -> Tensor:
        """Norm of each record's gradient: (records,), float32 or wider."""
        ...

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        """Sum over records of gradient times factor, of which no two are added in less than double precision.

        Zeros as `clipping.scaled` treats them.
        """
        ...

    def rows(self) -> Tensor:
        """The gradients in full: (records, ...)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Instantiated:
    """Gradients in full, in blocks of some records: (records, ...) each.

    Blocks, because memory of tens of megabytes is asked of the system anew each time, page by page,
    while that of smaller pieces stays at hand from step to step.
    """

    blocks: tuple[Tensor, ...]
    norms: Tensor

    @classmethod
    def of(cls, blocks: Iterable[Tensor]) -> Instantiated:
        """Blocks whose norms are taken as they come, while they are in the processor's cache."""
        formed, norms = [], []
        for block in blocks:
            formed.append(block)
            norms.append(lengths(block))
        return cls(blocks=tuple(formed), norms=torch.cat(norms))

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        parts = factors.split([len(block) for block in self.blocks])
        return _summed(zip(self.blocks, parts, strict=True), zeros=zeros)

    def rows(self) -> Tensor:
        return torch.cat(self.blocks)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Inputs (records, ...) of a layer and gradients (records, ...) of its output, yet to be multiplied.

    `combine` maps inputs and output gradients of any records to their summed gradient, in double precision;
    `form` to their gradients one by one.
    """

    inputs: Tensor
    grads: Tensor
    norms: Tensor
    combine: Callable[[Tensor, Tensor], Tensor]
    form: Callable[[Tensor, Tensor], Tensor]

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        inputs, grads = self.inputs, self.grads
        if zeros:
            # Not by a factor of zero: inputs or gradients of a record left out may be infinite.
            kept = factors != 0
            inputs, grads, factors = inputs[kept], grads[kept], factors[kept]
        return self.combine(inputs, scaled(grads, factors, zeros=False))

    def rows(self) -> Tensor:
        return self.form(self.inputs, self.grads)


@dataclass(frozen=True, kw_only=True)
class Formed:
    """Inputs and output gradients as of `Kept`, whose products were formed to be measured and let go of.

    They are formed again, one by one, to be added; each has `size` numbers, or takes as many on the way.
    """

    inputs: Tensor
    grads: Tensor
    norms: Tensor
    form: Callable[[Tensor, Tensor], Tensor]
    size: int

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        blocks = in_blocks(self.size, self.inputs, self.grads, factors)
        return _summed(((self.form(x, dy), part) for x, dy, part in blocks), zeros=zeros)

    def rows(self) -> Tensor:
        return self.form(self.inputs, self.grads)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Gradients of a table of which each record reads few rows: `values` (entries, width) of its `places`.

    Entry e belongs to record `owners[e]` and to row `places[e]` of the table; no two entries share both.
    """

    owners: Tensor
    places: Tensor
    values: Tensor
    records: int
    shape: torch.Size

    @property
    def norms(self) -> Tensor:
        squares = self.values.new_zeros(self.records)
        return squares.index_add(0, self.owners, self.values.square().sum(1)).sqrt()

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        values = devices.in_double(scaled(self.values, factors[self.owners], zeros=zeros))
        return values.new_zeros(self.shape).index_add_(0, self.places.to(values.device), values)

    def rows(self) -> Tensor:
        table = self.values.new_zeros(self.records, *self.shape)
        return table.index_put((self.owners, self.places), self.values)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Gradients with respect to some entries along the first axis of a parameter; zero beside them.

    `parts` maps where entries start to their shares; no two of them overlap.
    """

    parts: dict[int, Share]
    ends: dict[int, int]
    size: int

    @classmethod
    def of(cls, share: Share, where: slice, size: int) -> Part:
        start, end, _ = where.indices(size)
        return cls(parts={start: share}, ends={start: end}, size=size)

    def beside(self, other: Share) -> Part | None:
        """Both together, where they have no entry in common; None where they may."""
        if not isinstance(other, Part):
            return None
        spans = sorted([*self.ends.items(), *other.ends.items()])
        if any(start < end for (_, end), (start, _) in pairwise(spans)):
            return None
        return Part(parts=self.parts | other.parts, ends=self.ends | other.ends, size=self.size)

    @property
    def norms(self) -> Tensor:
        return lengths(torch.stack([share.norms for share in self.parts.values()], dim=1))

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        found = {start: share.weighted(factors, zeros=zeros) for start, share in self.parts.items()}
        return self._whole(found, 0)

    def rows(self) -> Tensor:
        return self._whole({start: share.rows() for start, share in self.parts.items()}, 1)

    def _whole(self, found: dict[int, Tensor], axis: int) -> Tensor:
        some = next(iter(found.values()))
        shape = list(some.shape)
        shape[axis] = self.size
        whole = some.new_zeros(shape)
        for start, each in found.items():
            whole.narrow(axis, start, each.shape[axis]).copy_(each)
        return whole


def _summed(parts: Iterable[tuple[Tensor, Tensor]], *, zeros: bool) -> Tensor:
    """Of blocks of gradients (records, ...) and their factors (records,) the sum, in double precision."""
    total: Tensor | None = None
    for block, factors in parts:
        part = weighted_sum(block, factors, zeros=zeros)
        total = part if total is None else total.add_(part)
    assert total is not None, "there is a block, be it empty"
    return total


def norms_from(products: Tensor, lengths: Tensor) -> Tensor:
    """Norms (records,) from squared norms and, for each record, the sum of the lengths of what was added up.

    A gradient whose parts cancel has a square that rounding may swallow or turn negative; a norm
    too small would let the record through unclipped. The most that rounding takes is added back.
    """
    slack = 4 * torch.finfo(products.dtype).eps * lengths.square()
    return (products + slack).clamp(min=0).sqrt()


def norms_of_formed(norms: Tensor, lengths: Tensor) -> Tensor:
    """Norms (records,) of gradients that are formed once to be measured, once more to be added.

    `lengths` are, for each record, the sum of the lengths of what was added up, L. Where its parts cancel,
    a gradient is rounding alone, and the other order of sums may round it to something longer: by k eps L,
    k of a few. Measured as the root of norm^2 + (256 eps L)^2, what is added passes what was measured
    by at most the root of 1 + (k / 256)^2 times: 2^-13 for a k of 4. Others change by nothing that shows.
    """
    return torch.hypot(norms, 256 * torch.finfo(norms.dtype).eps * lengths)
