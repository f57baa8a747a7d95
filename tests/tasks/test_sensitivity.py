"""No record moves the clipped sum by more than the norm, whatever its target and whatever a model says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.tasks import MultiLabel, Ordinal, Regression

TASKS: tuple[Any, ...] = (
    MultiLabel(labels=3),
    Ordinal(classes=4),
    Regression(bounds=(-2.0, 6.0)),
    Regression(bounds=(-1e30, 1e30)),
)
NORM = 0.7
# Of inputs, and so of outputs: some overflow.
SIZES = (0.0, 1e-20, 1.0, 1e4, 1e15, 1e30, -1e30, math.inf, math.nan)


def extremes(task: Any) -> Tensor:
    """Labels at the ends of what they may be, and between."""
    if isinstance(task, Regression):
        low, high = task.bounds
        return torch.tensor([low, high, (low + high) / 2])
    if isinstance(task, MultiLabel):
        return torch.tensor([[0.0] * 3, [1.0] * 3, [0.0, 1.0, 0.0]])
    return torch.tensor([0, task.classes - 1, 1])


@pytest.mark.parametrize("task", TASKS, ids=repr)
@pytest.mark.parametrize("kind", ["bookkeeping", "hooks"])
def test_one_record_adds_no_more_than_the_norm(task: Any, kind: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, *task.outputs))
    plan = DPSGDPlan(
        units=8, sample_rate=0.5, steps=1, expected_batch_size=4, max_grad_norm=NORM, noise_multiplier=1.0
    )
    engine = DPSGDEngine(
        kind, model, torch.optim.SGD(model.parameters(), lr=0.1), plan, loss=task.loss,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    rng = torch.Generator().manual_seed(4)
    engine.prepare(torch.zeros(1, 4), labels=task.made_up(8, rng))
    moved = 0.0
    for label in extremes(task):
        for size in SIZES:
            for direct in (False, True):
                with torch.no_grad():  # outputs as large as the inputs, too
                    model[3].weight.fill_(1e30 if direct else 0.1)
                engine.accumulate(torch.full((1, 4), size), label[None], 1)
                added = float(engine.total().double().norm())
                engine.optimizer.zero_grad(set_to_none=True)
                assert added <= NORM * (1 + 1e-5)
                moved = max(moved, added)
    assert moved > NORM / 2, "something was clipped"


@pytest.mark.parametrize(
    ("task", "most"),
    [
        (MultiLabel(labels=3), math.sqrt(3)),
        (Ordinal(classes=4), 3 * math.sqrt(2)),
        (Regression(bounds=(0, 9)), 4.0),
    ],
)
def test_the_gradient_by_the_outputs_is_bounded(task: Any, most: float) -> None:
    """So far from the labels as an output may be: clipping is not what keeps a gradient finite."""
    rng = torch.Generator().manual_seed(3)
    outputs = 10.0 ** torch.randint(-3, 30, (500, 1), generator=rng)
    outputs = (outputs * torch.randn(500, *task.outputs, generator=rng)).requires_grad_()
    losses = task.loss(outputs, task.made_up(500, rng))
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    assert bool(losses.isfinite().all())
    assert float(gradient.norm(dim=-1).max()) <= most * (1 + 1e-5)
