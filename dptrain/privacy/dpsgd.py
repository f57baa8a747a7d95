"""DP-SGD steps, through Opacus: per-record gradients, clipping, noise, the optimizer's update.

Built piece by piece from one Plan rather than by `PrivacyEngine.make_private`, which reads the
sample rate and the number of steps off a data loader.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from dptrain.contracts import ConfigError, Plan
from dptrain.privacy.clipping import KINDS, Clipper, gradient_norms, scaled, weighted_sum

ENGINES = ("hooks", "ghost")

RecordLoss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), labels (n,) -> losses (n,)


class Engine(Protocol):
    """Adds up gradients over one logical batch, in physical batches of any size, then updates once."""

    def accumulate(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Add what these records contribute, be it none; returns their summed loss, which is private."""
        ...

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        """Add units given by their gradients, one (units, ...) a parameter, clipped as records' are."""
        ...

    def total(self) -> Tensor:
        """The sum of clipped gradients so far, without noise, which is private: (parameters,)."""
        ...

    def update(self) -> None:
        """Take the step, whatever was accumulated, be it nothing at all."""
        ...

    def noise(self) -> Tensor:
        """What the last update added to the sum of gradients: (parameters,)."""
        ...


def check_choices(engine: str, clipping: str) -> None:
    """Raise ConfigError where there is no such engine or clipping, or they do not go together."""
    if engine not in ENGINES:
        raise ConfigError(f"mechanism.engine={engine} is unknown; choose one of {', '.join(ENGINES)}")
    if clipping not in KINDS:
        raise ConfigError(f"mechanism.clipping={clipping} is unknown; choose one of {', '.join(KINDS)}")
    if engine == "ghost" and clipping == "per_layer":
        raise ConfigError(
            "mechanism.clipping=per_layer cannot run with mechanism.engine=ghost, which knows one norm "
            "a record; use mechanism.engine=hooks"
        )


def make_engine(
    kind: str,
    model: nn.Module,
    optimizer: Optimizer,
    plan: Plan,
    *,
    loss: RecordLoss,
    generator: torch.Generator,
) -> Engine:
    """The engine of this name: `hooks` (gradients in full) or `ghost` (norms first, then a weighted pass)."""
    check_choices(kind, plan.clipping)
    engine = HooksEngine if kind == "hooks" else GhostEngine
    return engine(model, optimizer, plan, loss=loss, generator=generator)


def backward(loss: Tensor, *, retain_graph: bool = False) -> None:
    """Backward through Opacus' hooks, without the warning that inputs need no gradient: ours never do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward(retain_graph=retain_graph)


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
        self.last_noise: list[Tensor] = []

    def clip_and_accumulate(self) -> None:
        """Clip the per-record gradients that the hooks left behind, and add them to the sum."""
        self.clip_and_add(self.grad_samples)
        for parameter in self.params:
            parameter.grad_sample = None

    def clip_and_add(self, gradients: list[Tensor]) -> None:
        """Add per-record gradients, one (records, ...) a parameter, each record clipped."""
        factors = self.clipper.factors(gradient_norms(gradients))
        self.dropped += int((factors[0] == 0).sum())
        self.add([weighted_sum(g, f) for g, f in zip(gradients, factors, strict=True)])

    def add(self, sums: list[Tensor]) -> None:
        """Add one sum of clipped gradients a parameter."""
        for parameter, total in zip(self.params, sums, strict=True):
            total = total.to(parameter.dtype)
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    def release(self) -> None:
        """Add noise, divide by the plan's constant, update the weights; an empty batch is noise alone."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(parameter)
        self.add_noise()
        self.last_noise = [parameter.grad - parameter.summed_grad for parameter in self.params]
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size
        self.original_optimizer.step()
        self.zero_grad(set_to_none=True)


class _NoisyEngine:
    """How a step of either engine ends: once clipped and summed, gradients are noised alike."""

    optimizer: NoisySum

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

    def noise(self) -> Tensor:
        return torch.cat([noise.flatten() for noise in self.optimizer.last_noise])


class HooksEngine(_NoisyEngine):
    """Every record's gradient in full, by Opacus' hooks."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plan: Plan,
        *,
        loss: RecordLoss,
        generator: torch.Generator,
    ) -> None:
        self.module = GradSampleModule(model, loss_reduction="sum")
        clipper = Clipper.of(model, plan.clipping, plan.max_grad_norm)
        self.optimizer = NoisySum(optimizer, plan, clipper, generator)
        self.loss = loss

    def accumulate(self, inputs: Tensor, labels: Tensor) -> Tensor:
        if len(labels) == 0:
            return inputs.new_zeros(())
        loss = self.loss(self.module(inputs), labels).sum()
        backward(loss)
        self.optimizer.clip_and_accumulate()
        return loss.detach()


class GhostEngine(_NoisyEngine):
    """Ghost clipping: one backward pass for the norms alone, a second for the weighted sum (Li et al. 2022).

    Per-layer clipping would need a pass a layer and is refused.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plan: Plan,
        *,
        loss: RecordLoss,
        generator: torch.Generator,
    ) -> None:
        check_choices("ghost", plan.clipping)
        self.module = GradSampleModuleFastGradientClipping(
            model, loss_reduction="sum", max_grad_norm=plan.max_grad_norm, use_ghost_clipping=True
        )
        self.clipper = Clipper(kind=plan.clipping, max_grad_norm=plan.max_grad_norm, layers=(0,))
        whole_model = Clipper.of(model, plan.clipping, plan.max_grad_norm)
        self.optimizer = NoisySum(optimizer, plan, whole_model, generator)
        self.loss = loss

    def accumulate(self, inputs: Tensor, labels: Tensor) -> Tensor:
        if len(labels) == 0:
            return inputs.new_zeros(())
        losses = self.loss(self.module(inputs), labels)
        backward(losses.sum(), retain_graph=True)
        factors = self.clipper.factors(self.module.get_norm_sample().unsqueeze(0))[0]
        self.optimizer.original_optimizer.zero_grad(set_to_none=True)
        kept = factors > 0
        if not bool(kept.all()):
            # A weighted sum would turn 0 x infinity into NaN; go again without these records.
            self.optimizer.dropped += int((~kept).sum())
            return self.accumulate(inputs[kept], labels[kept])
        self.module.disable_hooks()
        backward((factors * losses).sum())
        self.module.enable_hooks()
        self.optimizer.add([parameter.grad for parameter in self.optimizer.params])
        self.optimizer.original_optimizer.zero_grad(set_to_none=True)
        return losses.detach().sum()


class RecordGradients:
    """What single records would add to the sum at the current weights: clipped gradients, one row a record.

    Works on a copy of the model, so that asking leaves no trace in the training. `clipper=None`
    asks for gradients as they are, the contribution to a training without privacy.
    """

    def __init__(self, model: nn.Module, loss: RecordLoss, clipper: Clipper | None) -> None:
        self.module = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
        self.clipper = clipper
        self.loss = loss

    def follow(self, model: nn.Module) -> None:
        """Take over the weights of this model."""
        with torch.no_grad():
            for mine, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
                mine.copy_(theirs)

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Clipped gradients (records, parameters); a gradient that is not finite is zero."""
        backward(self.loss(self.module(inputs), labels).sum())
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        gradients = [p.grad_sample for p in parameters]
        self.module.zero_grad(set_to_none=True)
        if self.clipper is None:
            rows = [torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0) for g in gradients]
        else:
            factors = self.clipper.factors(gradient_norms(gradients))
            rows = [scaled(g, f) for g, f in zip(gradients, factors, strict=True)]
        return torch.cat([row.flatten(1) for row in rows], dim=1)
