"""A model, what is trained of it, and records as that part sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dptrain.contracts import Context, Records
from dptrain.models.frozen import split
from dptrain.training.features import Features


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A model, what is trained of it, and records as that part sees them."""

    model: nn.Module
    part: nn.Module
    make: Features | None  # None: nothing of the model is frozen, and inputs are seen as they are
    context: Context

    @classmethod
    def of_model(cls, model: nn.Module, context: Context) -> Seen:
        parts = split(model)
        if parts is None:
            return cls(model=model, part=model, make=None, context=context)
        return cls(model=model, part=parts[1], make=Features(parts[0], context), context=context)

    def of(self, records: Records) -> Records:
        """These records in memory; features are made once and kept for the control model too."""
        if self.make is None:
            return records.to(torch.device("cpu"), self.context.dtype)
        return self.make.of(records, self.context.features)

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """What is seen of inputs (n, ...), on the CPU; nothing is kept."""
        return inputs.cpu() if self.make is None else self.make(inputs).cpu()

    @property
    def made_by(self) -> str:
        """A hash of what makes features; empty where inputs are seen as they are."""
        return "" if self.make is None else self.make.digest.hexdigest()
