"""How a step ends: clipped gradients are added up, noise is added to the sum, the weights move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from dptrain.contracts import Plan
from dptrain.privacy.clipping import Clipper, gradient_norms, left_out, weighted_sum


class NoisySum(DPOptimizer):
    """Opacus' optimizer and its noise, over a sum that is clipped our way and that no record can spoil.

    `dropped` counts records whose gradient was not finite; it is private, as every diagnostic
    of the training records is.
    """

    def __init__(
        self, optimizer: Optimizer, plan: Plan, clipper: Clipper, generator: torch.Generator
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
            generator=generator,
        )
        self.clipper = clipper
        self.dropped = 0
        self.keeps_noise = False
        self.last_noise: list[Tensor] = []

    def clip_and_accumulate(self) -> None:
        """Clip the per-record gradients that the hooks left behind, and add them to the sum."""
        self.clip_and_add(self.grad_samples)
        for parameter in self.params:
            parameter.grad_sample = None

    def clip_and_add(self, gradients: list[Tensor]) -> None:
        """Add per-record gradients, one (records, ...) a parameter, each record clipped."""
        factors = self.clipper.factors(gradient_norms(gradients))
        dropped = left_out(factors)
        self.dropped += dropped
        pairs = zip(gradients, factors, strict=True)
        self.add([weighted_sum(gradient, factor, zeros=dropped > 0) for gradient, factor in pairs])

    def add(self, sums: list[Tensor]) -> None:
        """Add one sum of clipped gradients a parameter."""
        for parameter, total in zip(self.params, sums, strict=True):
            total = total.to(parameter.dtype)
            if parameter.summed_grad is None:
                parameter.summed_grad = total
            else:
                parameter.summed_grad += total

    def release(self) -> None:
        """Add noise, divide by the plan's constant, update the weights; an empty batch is noise alone."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(parameter)
        self.add_noise()
        if self.keeps_noise:  # measured, not remembered: what was added, whatever was meant to be
            self.last_noise = [parameter.grad - parameter.summed_grad for parameter in self.params]
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self.zero_grad(set_to_none=True)


class NoisyEngine(ABC):
    """What every engine is made of, and how a step ends: clipped and summed, gradients are noised alike."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plan: Plan,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        """`loss` is that of each record: logits (n, classes), labels (n,) -> losses (n,)."""
        self.module = self.wrap(model, plan)
        clipper = Clipper.of(model, plan.clipping, plan.max_grad_norm)
        self.optimizer = NoisySum(optimizer, plan, clipper, generator)
        self.loss = loss

    @abstractmethod
    def wrap(self, model: nn.Module, plan: Plan) -> Any:
        """The model, made to leave behind what this engine clips by."""

    @abstractmethod
    def accumulate(self, inputs: Tensor, labels: Tensor, copies: int = 1) -> Tensor:
        """Add what these records contribute; returns their summed loss."""

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        self.optimizer.clip_and_add(gradients)

    def total(self) -> Tensor:
        return torch.cat(
            [
                (torch.zeros_like(p) if p.summed_grad is None else p.summed_grad).flatten()
                for p in self.optimizer.params
            ]
        )

    def update(self) -> None:
        self.optimizer.release()

    def keep_noise(self) -> None:
        self.optimizer.keeps_noise = True

    def noise(self) -> Tensor:
        return torch.cat([noise.flatten() for noise in self.optimizer.last_noise])
