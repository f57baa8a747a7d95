"""How a step ends: clipped gradients are added up, noise is added to the sum, the weights move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.clipping import Clipper, left_out, wide
from dptrain.privacy.noise.source import NoiseSource


class NoisySum(DPOptimizer):
    """Opacus' optimizer and its noise, over a sum that is clipped our way and that no record can spoil.

    `dropped` counts records whose gradient was not finite; it is private, as every diagnostic
    of the training records is.
    """

    def __init__(
        self, optimizer: Optimizer, plan: DPSGDPlan, clipper: Clipper, generator: NoiseSource
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self.source = generator
        self.clipper = clipper
        self.dropped = 0
        self.keeps_noise = False
        self.last_noise: list[Tensor] = []

    def clip_and_add_shares(self, shares: Sequence[Share | None], records: int) -> None:
        """Add what each of so many records has, a share a parameter, each record clipped; None is nothing.

        Norms and sums come from the same shares, so that what is added is what was measured.
        """
        nothing = wide(self.params[0].new_zeros(records))
        norms = torch.stack([nothing if share is None else share.norms for share in shares])
        factors = self.clipper.factors(norms)
        dropped = left_out(factors)
        self.dropped += dropped
        self.add(
            [
                torch.zeros_like(parameter) if share is None else share.weighted(factor, zeros=dropped > 0)
                for parameter, share, factor in zip(self.params, shares, factors, strict=True)
            ]
        )

    def add(self, sums: list[Tensor]) -> None:
        """Add one sum of clipped gradients a parameter, of several in double precision where there is any.

        A sum of many batches in single precision would be off by what rounding takes of each.
        """
        for parameter, total in zip(self.params, sums, strict=True):
            if parameter.summed_grad is None:
                parameter.summed_grad = wide(total)
            elif parameter.device.type == "mps":
                parameter.summed_grad = parameter.summed_grad + total
            else:
                parameter.summed_grad = parameter.summed_grad.double() + total

    def add_noise(self) -> None:
        """Gradients become the sums with noise, in place of Opacus' noise of float32 that ends at 5.77."""
        sums = [parameter.summed_grad for parameter in self.params]
        noisy = self.source.add(sums, self.noise_multiplier * self.max_grad_norm)
        for parameter, gradient in zip(self.params, noisy, strict=True):
            parameter.grad = gradient.to(parameter.dtype)

    def release(self) -> None:
        """Add noise, divide by the plan's constant, update the weights; an empty batch is noise alone."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(parameter)
        self.add_noise()
        if self.keeps_noise:  # measured, not remembered: what was added, rounding and all
            self.last_noise = [
                (parameter.grad.double() - parameter.summed_grad.double()).to(parameter.dtype)
                for parameter in self.params
            ]
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self.zero_grad(set_to_none=True)
