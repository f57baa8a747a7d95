"""How long a step of a training takes, by the first few of them on blank records, before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch

from dptrain.contracts import Progress, Records, Splits
from dptrain.contracts.trees import by_name
from dptrain.tasks import task_of

TIMED = 2  # steps, after the first one, which loads what the others find at hand
LONGEST = 1.0  # seconds: a step that takes longer is told from smaller ones
QUARTER = 4  # of a physical batch, the smallest step that is timed
MOST = 1_000_000  # units that batches are drawn from

Trial = Callable[[int, Progress], object]


class _Enough(Exception):
    """As many steps as are timed have been taken."""


def seconds_per_step(trial: Trial, batch: int, *, physical: int) -> float:
    """Seconds of one step with so many units, by `trial(batch, progress)`, which trains until it is stopped.

    Of a large batch, what a unit takes is the difference of two steps with at most `physical` units.
    """
    small = min(batch, max(1, physical // QUARTER))
    seconds = _step(trial, small)
    if small == batch:
        return seconds
    if seconds * batch / small <= LONGEST:
        return _step(trial, batch)
    large = min(batch, physical)
    longer = _step(trial, large)
    return longer + max(0.0, longer - seconds) * (batch - large) / (large - small)


def _step(trial: Trial, batch: int) -> float:
    ends: list[float] = []

    def progress(*, done: int, total: int, epsilon: float) -> None:  # noqa: ARG001
        if done:
            ends.append(time.perf_counter())
        if len(ends) > TIMED:
            raise _Enough

    with suppress(_Enough):
        trial(batch, progress)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def blank(splits: Splits, units: int, most: int = MOST) -> Splits:
    """Splits of this form with records that are all alike, of no more than `most` of their `units`."""
    task, rng = task_of(splits), torch.Generator().manual_seed(0)
    each = max(1, len(splits.train) // units)
    grouped = splits.group_ids is not None

    def alike(count: int) -> Records:
        one = splits.train.blank(1)
        return Records(
            by_name(lambda rows: rows.expand(count, *rows.shape[1:]), one), task.made_up(count, rng)
        )

    count, few = min(units, most) * each, 2
    return replace(
        splits,
        train=alike(count),
        holdout=alike(few),
        test=alike(few),
        public=None,
        group_ids=torch.arange(count) // each if grouped else None,
        holdout_group_ids=count + torch.arange(few) if grouped else None,
    )
