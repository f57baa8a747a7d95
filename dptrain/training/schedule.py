"""What changes over the steps: learning rates, as factors of the optimizer's own, and averages of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from dptrain.contracts import ConfigError

NAMES = ("constant", "linear", "cosine")


def make_schedule(optimizer: Optimizer, name: str, *, steps: int, warmup_steps: int) -> LambdaLR:
    """A schedule that warms up linearly, then stays, or decays to zero at the last step."""
    if name not in NAMES:
        raise ConfigError(f"training.schedule={name} is unknown; choose one of {', '.join(NAMES)}")
    return LambdaLR(optimizer, lambda step: factor(name, step, steps=steps, warmup_steps=warmup_steps))


def factor(name: str, step: int, *, steps: int, warmup_steps: int) -> float:
    """The share of the full learning rate in force at this step (counted from 0).

    >>> [round(factor("linear", step, steps=4, warmup_steps=0), 2) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> factor("constant", 0, steps=10, warmup_steps=4)
    0.25
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if name == "linear":
        return 1.0 - done
    if name == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return 1.0


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; early on it forgets faster, so that it keeps no start."""

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        follow(averages, weights, int(count), decay)

    return AveragedModel(model, multi_avg_fn=update)


@torch.no_grad()
def follow(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: int, decay: float) -> None:
    """Move averages of the weights of so many steps on to these weights, in place."""
    share = 1.0 - min(decay, (1.0 + steps) / (10.0 + steps))
    torch._foreach_lerp_(list(averages), list(weights), share)
