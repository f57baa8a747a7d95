"""The part of a model that is trained, and records as that part sees them."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import Context, Inputs, Kept, Records, Release, Splits
from dptrain.contracts.trees import by_name, leaves, moved
from dptrain.models.frozen import split
from dptrain.training.settings import Settings

GIB = 2**30
# Records whose features are made at once, never more and never fewer: libraries choose how they add up by the
# size of a batch, and compute its last few rows otherwise.
CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained of a model, and on what: all of it on the records, or its head on their features.

    Both ways train the same weights: frozen features hold no parameter that is trained and treat each
    record by itself, so that a gradient of the head is a gradient of the model.
    """

    whole: nn.Module
    part: nn.Module
    splits: Splits
    features: Callable[[Inputs], Any]  # from inputs of the whole to inputs of the part
    made_by: str = ""  # a hash of what makes features, which only the same features go on with

    @classmethod
    def of(cls, model: nn.Module, splits: Splits, settings: Settings, context: Context) -> Trained:
        """The head with the features of every record, where they are made once; else the model as it is."""
        parts = split(model)
        if parts is None or splits.train.names:
            return cls(whole=model, part=model, splits=splits, features=_as_they_are)
        frozen, head = parts
        make = Features(frozen, context)
        copies, gib = 0 if settings.augmentation is None else settings.copies, settings.feature_cache_gib
        if remade(make, splits, copies=copies, gib=gib, dtype=context.dtype):
            return cls(whole=model, part=model, splits=splits, features=_as_they_are)
        kept = context.features
        if kept is not None and 2 * _gib(make, splits.train, splits.holdout, dtype=context.dtype) > gib:
            kept = None  # one training's own would fit, but not what is kept for others beside them
        seen = replace(splits, train=make.of(splits.train, kept), holdout=make.of(splits.holdout, kept))
        return cls(whole=model, part=head, splits=seen, features=make, made_by=make.digest.hexdigest())

    def weights(self, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All weights of the whole, on the CPU, its trained part with those that are released."""
        (place,) = [name for name, module in self.whole.named_modules() if module is self.part]
        prefix = f"{place}." if place else ""
        trained = {prefix + name: value for name, value in released.items()}
        return {name: value.detach().cpu() for name, value in {**self.whole.state_dict(), **trained}.items()}


def on_features(release: Release, splits: Splits, context: Context, *, gib: float) -> tuple[Release, Splits]:
    """The head of a released model, and the test records as it sees them.

    Both as they are where nothing is frozen. What the head predicts is what the whole model predicts.
    Features may take `gib` of memory, with what is kept of them.
    """
    parts = None if release.weights is None or splits.test.names else split(release.build())
    if parts is None or context.features is None:
        return release, splits
    frozen, head = parts
    make = Features(frozen.to(context.dtype), context)
    if 2 * _gib(make, splits.test, dtype=context.dtype) > gib:
        return release, splits
    made = make.of(splits.test, context.features)
    seen = replace(splits, test=Records(made.inputs.to(next(head.parameters()).dtype), made.labels))
    return replace(release, architecture=partial(copy.deepcopy, head), weights=head.state_dict()), seen


def remade(
    make: Callable[[Tensor], Tensor], splits: Splits, *, copies: int, gib: float, dtype: torch.dtype
) -> str:
    """Why the features that a frozen part makes are made anew at each step; empty where they are made once.

    `copies` of a record are random and never the same twice (0: records as they are); `gib` is the
    memory that the features of all records may take.
    """
    if copies:
        return f"training.augmentations={copies} shows other copies of each record"
    size = _gib(make, splits.train, splits.holdout, dtype=dtype)
    return f"they take {size:.3g} GiB, and performance.feature_cache_gib={gib:g}" if size > gib else ""


def _gib(make: Callable[[Tensor], Tensor], *parts: Records, dtype: torch.dtype) -> float:
    """The memory that the features of all these records take."""
    one = math.prod(make(parts[0].blank(1)).shape) * dtype.itemsize
    return one * sum(map(len, parts)) / GIB


class Features:
    """Features of inputs (n, ...), without gradients: (n, ...) where the inputs are."""

    def __init__(self, frozen: nn.Module, context: Context) -> None:
        self.frozen, self.context = frozen, context

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        made: Tensor = self.frozen(moved(inputs, self.context.device, self.context.dtype))
        return made.to(leaves(inputs)[0].device)

    def of(self, records: Records, kept: Kept | None) -> Records:
        """Features of all these records, in memory, under their labels; what is `kept` is not made again."""
        shape = self(records.blank(1)).shape[1:]
        made = torch.empty(len(records), *shape, dtype=self.context.dtype)
        names = [] if kept is None else self.names(records)
        for rows in torch.arange(len(records)).split(CHUNK):
            make = partial(self._made, records, rows)
            start, stop = int(rows[0]), int(rows[-1]) + 1
            made[start:stop] = make() if kept is None else kept.once(names[start:stop], make)
        return Records(made, records.labels)

    def names(self, records: Records) -> list[bytes]:
        """Of each record a hash of its inputs and of the weights that make features of them."""
        frozen = self.digest.digest()[:16]
        return [frozen + row.tobytes() for row in records.digests().numpy()]

    @cached_property
    def digest(self) -> hashlib._Hash:
        """A SHA-256 that has taken in the frozen part."""
        digest = hashlib.sha256(f"{self.context.device} {self.context.dtype}".encode())
        for tensor in (*self.frozen.parameters(), *self.frozen.buffers()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest

    def of_each(self, inputs: Inputs) -> Tensor:
        """Features of at most CHUNK inputs (n, ...), rounded as they are in whatever company.

        Rows that are no record fill up the batch, so that no record's features depend on how many others
        there are.
        """
        count = len(leaves(inputs)[0])
        filled = by_name(lambda one: torch.cat([one, one.new_zeros(CHUNK - count, *one.shape[1:])]), inputs)
        return self(filled)[:count]

    def _made(self, records: Records, rows: Tensor, some: Tensor | slice = slice(None)) -> Tensor:
        return self.of_each(records.take(rows[some]).read().inputs)


def _as_they_are(inputs: Inputs) -> Inputs:
    return inputs
