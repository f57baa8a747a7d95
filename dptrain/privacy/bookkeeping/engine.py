"""The engine that clips by bookkeeping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dptrain.contracts import Plan
from dptrain.privacy.bookkeeping.module import BookkeepingModule
from dptrain.privacy.clipping import left_out, wide
from dptrain.privacy.noisy import NoisyEngine


class BookkeepingEngine(NoisyEngine):
    """One backward pass for the gradients of layer outputs; norms and the weighted sum follow from those."""

    def wrap(self, model: nn.Module, plan: Plan) -> BookkeepingModule:  # noqa: ARG002
        return BookkeepingModule(model)

    def accumulate(self, inputs: Tensor, labels: Tensor, copies: int = 1) -> Tensor:
        if len(labels) == 0:
            return inputs.new_zeros(())
        with self.module.recording(len(labels), copies) as tape:
            loss = self.loss(self.module(inputs), labels).sum() / copies
            tape.backward(loss)
        shares = [tape.shares.pop(parameter, None) for parameter in self.optimizer.params]
        nothing = wide(inputs.new_zeros(len(labels) // copies))
        norms = [nothing if share is None else share.norms for share in shares]
        factors = self.optimizer.clipper.factors(torch.stack(norms))
        dropped = left_out(factors)
        self.optimizer.dropped += dropped
        sums = []
        for parameter, factor in zip(self.optimizer.params, factors, strict=True):
            share = shares.pop(0)
            sums.append(
                torch.zeros_like(parameter) if share is None else share.weighted(factor, zeros=dropped > 0)
            )
        self.optimizer.add(sums)
        return loss.detach()
