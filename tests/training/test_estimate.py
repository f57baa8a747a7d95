"""What a step takes: as it is where it is short, and from two smaller ones where it is long."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dptrain.contracts import Splits
from dptrain.training import estimate
from dptrain.training.estimate import MOST, blank, seconds_per_step


class Steps:
    """Trainings whose steps take so many seconds, and for each unit so many more; the first one a minute."""

    def __init__(self, fixed: float, each: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fixed, self.each, self.now = fixed, each, 0.0
        self.batches: list[int] = []
        monkeypatch.setattr(estimate.time, "perf_counter", lambda: self.now)

    def __call__(self, batch: int, progress: Any) -> None:
        self.batches.append(batch)
        self.now += 60.0
        for step in range(1, 1001):
            self.now += self.fixed + self.each * batch
            progress(done=step, total=1000, epsilon=0.0)


@pytest.mark.parametrize(
    ("each", "batch", "tried"),
    [(1e-5, 16, [16]), (1e-5, 2048, [64, 2048]), (1e-2, 2048, [64, 256]), (1e-2, 200, [50, 200])],
)
def test_a_step_is_told_by_no_more_than_it_takes(
    each: float, batch: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(0.02, each, monkeypatch)
    physical = 256 if batch != 200 else 200
    assert seconds_per_step(steps, batch, physical=physical) == pytest.approx(0.02 + each * batch)
    assert steps.batches == tried


def test_blank_records_have_the_form_of_the_data_and_no_value_of_it(splits: Splits) -> None:
    made = blank(splits, len(splits.train))
    assert len(made.train) == len(splits.train) <= MOST
    assert made.train.shapes == splits.train.shapes
    assert torch.equal(made.train.inputs, torch.zeros_like(splits.train.inputs))
    assert len(blank(splits, len(splits.train), 10).train) == 10
