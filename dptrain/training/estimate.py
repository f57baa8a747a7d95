"""How long a training will take, before it starts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from dptrain.contracts import Plan
from dptrain.models.frozen import split
from dptrain.privacy.clipping import Clipper
from dptrain.privacy.dpsgd import RecordGradients
from dptrain.training.loss import make_loss


def estimate_seconds(
    model: nn.Module,
    plan: Plan,
    shape: tuple[int, ...],
    device: torch.device,
    *,
    copies: int = 1,
    remade: bool = False,
    largest: int = 64,
) -> float:
    """Seconds that the steps of a plan will take, from a small batch of blank records.

    Each record is seen as so many `copies`; features of a frozen part are made once, which takes its time
    too, unless they are `remade` at each step.
    """
    size = min(largest, plan.expected_batch_size)
    inputs = torch.zeros(size, *shape, device=device)
    labels = torch.zeros(size, dtype=torch.int64, device=device)
    model = copy.deepcopy(model).to(device)
    once = 0.0
    if not remade and (parts := split(model)) is not None:
        frozen, model = parts
        once = _seconds(partial(frozen, inputs)) / size * plan.units
        inputs = frozen(inputs)
    clipper = Clipper.of(model, plan.clipping, plan.max_grad_norm)
    gradients = RecordGradients(model, make_loss(None), clipper)
    step = _seconds(lambda: gradients(inputs, labels).sum().item()) / size * plan.expected_batch_size
    return once + step * copies * plan.steps


def _seconds(work: Callable[[], object]) -> float:
    """Of the second of two times, when all is at hand."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    return seconds
