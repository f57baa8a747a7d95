"""How long a training will take, before it starts."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from dptrain.contracts import Inputs, Plan, Task
from dptrain.contracts.trees import by_name, moved
from dptrain.models.frozen import split
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.agreement import ROWS_AT_MOST
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.tasks import Classification

log = logging.getLogger(__name__)


def estimate_seconds(
    model: nn.Module,
    plan: Plan,
    blank: Inputs,
    device: torch.device,
    *,
    task: Task | None = None,
    engine: str = "bookkeeping",
    copies: int = 1,
    remade: bool = False,
    largest: int = 64,
) -> float | None:
    """Seconds that the steps of DP-SGD will take, from a small batch of blank records; None: unknown.

    `blank` is one record without content. Each record is seen as so many `copies`; features of a frozen part
    are made once, which takes its time too, unless they are `remade` at each step.
    """
    if not isinstance(plan, DPSGDPlan):
        return None
    try:
        return _estimate(
            model, plan, blank, device, engine, task=task, copies=copies, remade=remade, largest=largest
        )
    except Exception as error:  # whatever it is, the training itself will meet it, and say what to do
        log.info("how long the training takes cannot be told: %s: %s", type(error).__name__, error)
        return None


def _estimate(
    model: nn.Module,
    plan: DPSGDPlan,
    blank: Inputs,
    device: torch.device,
    kind: str,
    *,
    task: Task | None,
    copies: int,
    remade: bool,
    largest: int,
) -> float:
    size = min(largest, plan.expected_batch_size)
    inputs = by_name(
        lambda one: one.expand(size, *one.shape[1:]).clone(), moved(blank, device, torch.float32)
    )
    trial = None if task is None else task.made_up(ROWS_AT_MOST, torch.Generator().manual_seed(0))
    task = task or Classification(classes=1)
    labels = task.made_up(size, torch.Generator().manual_seed(0)).to(device)
    model = copy.deepcopy(model).to(device)
    once = 0.0
    if not remade and (parts := split(model)) is not None:
        frozen, model = parts
        once = _seconds(partial(frozen, inputs)) / size * plan.units
        inputs = frozen(inputs)
    with torch.random.fork_rng():  # dropout in the estimate is none of the training's
        engine = DPSGDEngine(
            kind,
            model,
            torch.optim.SGD(model.parameters(), lr=0.0),
            plan,
            loss=task.loss,
            generator=torch.Generator(device),
        )
        engine.prepare(inputs, labels=trial)
        step = _seconds(partial(engine.accumulate, inputs, labels)) / size * plan.expected_batch_size
    return once + step * copies * plan.steps


def _seconds(work: Callable[[], object]) -> float:
    """Of the second of two times, when all is at hand."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    return seconds
