"""The control model: trained without privacy and watched by the same attacks, or kept from an earlier run."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from dptrain.contracts import Release, Task
from dptrain.evaluation.stage import Stage, Subject
from dptrain.runs.cache import Cache


def kept_or_trained(
    fit: Callable[[], Subject],
    *,
    model: nn.Module,
    stage: Stage,
    cache: Cache,
    key: str,
    device: torch.device,
    task: Task | None,
) -> Subject:
    """The control and what attacks saw of it; `fit` trains it, from `model`, where the cache has none."""
    started = time.perf_counter()
    kept, failed = _kept(fit, cache, key)
    seen = stage.observers()
    for name, watching in seen.items():
        if name in failed:
            watching.error = failed[name]
        else:
            watching.load_state_dict(kept["seen"][name])
    release = Release(
        architecture=partial(copy.deepcopy, model), weights=kept["weights"], device=device, task=task
    )
    return Subject(
        release=release,
        targets=stage.targets,
        seen=seen,
        steps=kept["steps"],
        fit_seconds=time.perf_counter() - started,
    )


def _kept(
    fit: Callable[[], Subject], cache: Cache, key: str
) -> tuple[Mapping[str, Any], dict[str, Exception]]:
    """A control's weights, and which attacks failed as they looked on: such a one is kept for nobody."""
    failed: dict[str, Exception] = {}

    def make() -> dict[str, Any]:
        subject = fit()
        failed.update({name: seen.error for name, seen in subject.seen.items() if seen.error is not None})
        assert subject.release.weights is not None, "what offers no weights is not kept"
        return {
            "weights": dict(subject.release.weights),
            "seen": {name: seen.state_dict() for name, seen in subject.seen.items()},
            "steps": subject.steps,
        }

    return cache.get(key, make, keep=lambda: not failed), failed
