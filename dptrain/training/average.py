"""Averaging the weights of many steps: free post-processing, and worth points of accuracy under noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; early on it forgets faster, so that it keeps no start."""
    return AveragedModel(model, multi_avg_fn=_average(decay))


def _average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        share = 1.0 - min(decay, (1.0 + steps) / (10.0 + steps))
        torch._foreach_lerp_(list(averages), list(weights), share)

    return update
