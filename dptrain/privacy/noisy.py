"""How a step ends: clipped gradients are added up, noise is added to the sum, the weights move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from dptrain.contracts import devices
from dptrain.privacy.banded import GradientPlan
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.clipping import Clipper, left_out, wide
from dptrain.privacy.noise.source import NoiseSource


def exact_step(plan: GradientPlan) -> float:
    """The step of a grid on which sums of a batch in double precision are exact, in whatever order.

    A coordinate of a sum is at most the claim for each of a batch's units, of whom twice as many as expected
    are provided for, and takes 2^51 steps at most. What rounding adds is far below what clipping keeps free.

    >>> from dptrain.privacy.accountant import DPSGDPlan
    >>> sizes = {"units": 60000, "sample_rate": 0.01, "expected_batch_size": 600, "steps": 1}
    >>> exact_step(DPSGDPlan(**sizes, max_grad_norm=1.0, noise_multiplier=1.0)) == 2.0**-39
    True
    """
    most = plan.max_grad_norm * min(plan.units, 2 * plan.expected_batch_size + 1000)
    return 2.0 ** (math.ceil(math.log2(most)) - 51)


def on_grid(sums: Tensor, step: float) -> Tensor:
    """These sums (...), float64, rounded to the grid of this step, to a coarser one beyond 2^51 steps."""
    shift = 1.5 * 2.0**52 * step  # where doubles are as far apart as the grid
    return (sums + shift).sub_(shift)


class NoisySum(DPOptimizer):
    """Opacus' optimizer and its noise, over a sum that is clipped our way and that no record can spoil.

    `dropped` counts records whose gradient was not finite; it is private, as every diagnostic
    of the training records is.
    """

    def __init__(
        self, optimizer: Optimizer, plan: GradientPlan, clipper: Clipper, generator: NoiseSource
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self.source = generator
        self.exact_step = exact_step(plan)
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
            None if share is None else share.weighted(factor, zeros=dropped > 0)
            for share, factor in zip(shares, factors, strict=True)
        )

    def add(self, sums: Iterable[Tensor | None]) -> None:
        """Add one sum of clipped gradients a parameter, exactly, so that no order of adding matters.

        None is nothing.
        """
        for parameter, total in zip(self.params, sums, strict=True):
            if total is None:
                continue
            exact = on_grid(devices.in_double(total), self.exact_step)
            held = parameter.summed_grad
            parameter.summed_grad = exact if held is None else held + exact

    def sum(self) -> Tensor:
        """The sum so far, without noise, in the precision that it is added in: (parameters,)."""
        self.fill()
        return torch.cat([parameter.summed_grad.reshape(-1) for parameter in self.params])

    def add_sum(self, flat: Tensor) -> None:
        """Add what another process summed up: (parameters,)."""
        sizes = [parameter.numel() for parameter in self.params]
        self.fill()
        parts = zip(flat.to(self.params[0].summed_grad.device).split(sizes), self.params, strict=True)
        self.add(part.view(parameter.shape) for part, parameter in parts)

    def seal(self) -> bytes:
        """A tag by which the same sum is known again; it tells nothing of it without this step's key."""
        return self.source.seal(self.sum().cpu().numpy().data.cast("B"))

    def fill(self) -> None:
        """Where nothing was added, the sum is zero."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = devices.in_double(torch.zeros_like(parameter))

    def add_noise(self) -> None:
        """Gradients become the sums with noise, in place of Opacus' noise of float32 that ends at 5.77."""
        sums = [parameter.summed_grad for parameter in self.params]
        noisy = self.source.add(sums, self.noise_multiplier * self.max_grad_norm)
        for parameter, gradient in zip(self.params, noisy, strict=True):
            parameter.grad = gradient.to(parameter)

    def release(self) -> None:
        """Add noise, divide by the plan's constant, update the weights; an empty batch is noise alone."""
        self.fill()
        self.add_noise()
        if self.keeps_noise:  # measured, not remembered: what was added, rounding and all
            self.last_noise = [self._added(p.grad, p.summed_grad).to(p) for p in self.params]
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self.zero_grad(set_to_none=True)

    def _added(self, noisy: Tensor, total: Tensor) -> Tensor:
        """What was added to the sum of a parameter's gradients."""
        return devices.in_double(noisy) - total
