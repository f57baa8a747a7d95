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
from torch import Tensor, nn
from torch.optim import Optimizer

from dptrain.contracts import ConfigError, Plan
from dptrain.privacy import samplers  # noqa: F401 - registers itself with Opacus
from dptrain.privacy.bookkeeping.engine import BookkeepingEngine
from dptrain.privacy.clipping import KINDS, Clipper, gradient_norms, scaled
from dptrain.privacy.noisy import NoisyEngine

ENGINES = ("bookkeeping", "hooks", "ghost")

RecordLoss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), labels (n,) -> losses (n,)


class Engine(Protocol):
    """Adds up gradients over one logical batch, in physical batches of any size, then updates once."""

    def accumulate(self, inputs: Tensor, labels: Tensor, copies: int = 1) -> Tensor:
        """Add what these records contribute, be it none; returns their summed loss, which is private.

        With `copies`, inputs (records * copies, ...) and labels (records * copies,) hold several
        views of each record side by side. Its gradient and its loss are means over them, taken
        before clipping (De et al. 2022, section 3.2), so that copies cost no privacy.
        """
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

    def keep_noise(self) -> None:
        """From now on, remember what an update adds, for `noise` to tell."""
        ...

    def noise(self) -> Tensor:
        """What the last update added to the sum of gradients, if `keep_noise` came before: (parameters,)."""
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
            "a record; use mechanism.engine=bookkeeping"
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
    """The engine of this name: `bookkeeping`: one pass; `hooks`: gradients in full; `ghost`: two passes."""
    check_choices(kind, plan.clipping)
    engines: dict[str, Callable[..., Engine]] = {
        "bookkeeping": BookkeepingEngine,
        "hooks": HooksEngine,
        "ghost": GhostEngine,
    }
    return engines[kind](model, optimizer, plan, loss=loss, generator=generator)


def backward(loss: Tensor, *, retain_graph: bool = False) -> None:
    """Backward through Opacus' hooks, without the warning that inputs need no gradient: ours never do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward(retain_graph=retain_graph)


class HooksEngine(NoisyEngine):
    """Every record's gradient in full, by Opacus' hooks."""

    def wrap(self, model: nn.Module, plan: Plan) -> GradSampleModule:  # noqa: ARG002
        return GradSampleModule(model, loss_reduction="sum")

    def accumulate(self, inputs: Tensor, labels: Tensor, copies: int = 1) -> Tensor:
        if len(labels) == 0:
            return inputs.new_zeros(())
        loss = self.loss(self.module(inputs), labels).sum() / copies
        backward(loss)
        if copies > 1:
            for parameter in self.optimizer.params:
                parameter.grad_sample = parameter.grad_sample.unflatten(0, (-1, copies)).sum(1)
        self.optimizer.clip_and_accumulate()
        return loss.detach()


class GhostEngine(NoisyEngine):
    """Ghost clipping: one backward pass for the norms alone, a second for the weighted sum (Li et al. 2022).

    Per-layer clipping would need a pass a layer and is refused.
    """

    def wrap(self, model: nn.Module, plan: Plan) -> GradSampleModuleFastGradientClipping:
        check_choices("ghost", plan.clipping)
        self.clipper = Clipper(kind=plan.clipping, max_grad_norm=plan.max_grad_norm, layers=(0,))
        return GradSampleModuleFastGradientClipping(
            model, loss_reduction="sum", max_grad_norm=plan.max_grad_norm, use_ghost_clipping=True
        )

    def accumulate(self, inputs: Tensor, labels: Tensor, copies: int = 1) -> Tensor:
        if copies > 1:
            raise ConfigError(
                f"mechanism.engine=ghost knows one norm a row and cannot average {copies} copies of a record "
                "before clipping; use mechanism.engine=bookkeeping"
            )
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
