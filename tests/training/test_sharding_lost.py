"""A training that is divided among processes goes on after some were lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranked import Fit
from torch import Tensor

from dptrain.contracts import ConfigError, DptrainError
from dptrain.training import checkpoint
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


def divided(size: int) -> Ranks:
    return Ranks(size, seconds=60, threads=1, sharded=True)


def interrupted(*, done: int, **_: Any) -> None:
    if done == 5:
        raise KeyboardInterrupt


OPTIONS: dict[str, Any] = {
    "name": "wide",
    "lanes": 3,
    "optimizer": partial(torch.optim.Adam, lr=0.01),
    "average_decay": 0.9,
}


def test_another_number_of_processes_goes_on_from_a_checkpoint(
    train: Fit, folder: Path, flat: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train(None, **OPTIONS)

    def after_a_checkpoint(_: Path, until: int | None = None) -> None:
        if until == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, divided(3) as ranks:
        patched.setattr(checkpoint, "forget_seals", after_a_checkpoint)
        with pytest.raises(KeyboardInterrupt):
            train(ranks, context={"folder": folder}, **OPTIONS)
    with divided(2) as fewer:
        resumed, guarantee = train(fewer, context={"folder": folder}, **OPTIONS)
    assert (guarantee.replayed_steps, guarantee.lost_steps) == (0, 0)
    assert torch.equal(flat(whole.weights), flat(resumed.weights))
    checkpoint.remove(folder)
    assert not list(folder.glob("shards-*"))


def test_another_number_of_processes_pays_again_for_steps_since_the_checkpoint(
    train: Fit, folder: Path, flat: Callable[..., Tensor]
) -> None:
    """Other shards of a sum have other tags, by which nobody can tell that it is the same."""
    whole, _ = train(None, **OPTIONS)
    with divided(3) as ranks, pytest.raises(KeyboardInterrupt):
        train(ranks, context={"folder": folder, "progress": interrupted}, checkpoint_seconds=1e9, **OPTIONS)
    with divided(2) as fewer:
        resumed, guarantee = train(fewer, context={"folder": folder}, **OPTIONS)
    assert guarantee.lost_steps == 5
    assert not torch.equal(flat(whole.weights), flat(resumed.weights))


def test_a_killed_rank_is_named_and_as_many_repeat_the_same(
    train: Fit, folder: Path, flat: Callable[..., Tensor]
) -> None:
    whole, _ = train(None, lanes=2)
    with divided(2) as ranks:

        def killing(*, done: int, **_: Any) -> None:
            if done == 4:
                ranks._started[0].kill()
                ranks._started[0].wait()

        with pytest.raises(DptrainError, match=r"rank 1 ended \(exit code -9\).*resume=latest"):
            train(ranks, context={"progress": killing, "folder": folder}, checkpoint_seconds=1e9)
    assert checkpoint.paid(folder) == 5
    with divided(2) as ranks:
        resumed, guarantee = train(ranks, context={"folder": folder})
    assert (guarantee.replayed_steps, guarantee.lost_steps) == (5, 0)
    assert torch.equal(flat(whole.weights), flat(resumed.weights))


def test_a_run_goes_on_as_it_was_begun(train: Fit, folder: Path) -> None:
    with divided(2) as ranks, pytest.raises(KeyboardInterrupt):
        train(ranks, context={"folder": folder, "progress": interrupted})
    with pytest.raises(ConfigError, match=r"begun with performance\.sharding=fsdp2"):
        train(None, context={"folder": folder})
