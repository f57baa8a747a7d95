"""The part of a model that is trained, and records as that part sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dptrain.contracts import Context, Records, Splits
from dptrain.models.frozen import split
from dptrain.training.settings import Settings

GIB = 2**30
CHUNK = 1024  # records whose features are made at once


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained of a model, and on what: all of it on the records, or its head on their features.

    Both ways train the same weights: frozen features hold no parameter that is trained and treat each
    record by itself, so that a gradient of the head is a gradient of the model.
    """

    whole: nn.Module
    part: nn.Module
    splits: Splits
    features: Callable[[Tensor], Tensor]  # from inputs of the whole to inputs of the part

    @classmethod
    def of(cls, model: nn.Module, splits: Splits, settings: Settings, context: Context) -> Trained:
        """The head with the features of every record, made once, where they fit; else the model as it is.

        Augmented records are never the same twice, so that their features must be made anew.
        """
        parts = split(model)
        if parts is None or settings.augmentation is not None:
            return cls(whole=model, part=model, splits=splits, features=_as_they_are)
        frozen, head = parts
        make = _Features(frozen, context)
        size = math.prod(make(torch.zeros(1, *splits.shape)).shape) * context.dtype.itemsize
        if size * (len(splits.train) + len(splits.holdout)) > settings.feature_cache_gib * GIB:
            return cls(whole=model, part=model, splits=splits, features=_as_they_are)
        seen = replace(splits, train=make.of(splits.train), holdout=make.of(splits.holdout))
        return cls(whole=model, part=head, splits=seen, features=make)

    def weights(self, released: nn.Module) -> dict[str, Tensor]:
        """All weights of the whole, on the CPU, its trained part as in the module that is released."""
        (place,) = [name for name, module in self.whole.named_modules() if module is self.part]
        prefix = f"{place}." if place else ""
        trained = {prefix + name: value for name, value in released.state_dict().items()}
        return {name: value.detach().cpu() for name, value in {**self.whole.state_dict(), **trained}.items()}


class _Features:
    """Features of inputs (n, ...), without gradients: (n, ...) where the inputs are."""

    def __init__(self, frozen: nn.Module, context: Context) -> None:
        self.frozen, self.context = frozen, context

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        made: Tensor = self.frozen(inputs.to(self.context.device, self.context.dtype))
        return made.to(inputs.device)

    def of(self, records: Records) -> Records:
        """Features of all these records, in memory, under their labels."""
        shape = self(torch.zeros(1, *records.shape)).shape[1:]
        made = torch.empty(len(records), *shape, dtype=self.context.dtype)
        start = 0
        for batch in records.batches(CHUNK):
            made[start : start + len(batch)] = self(batch.inputs)
            start += len(batch)
        return Records(made, records.labels)


def _as_they_are(inputs: Tensor) -> Tensor:
    return inputs
