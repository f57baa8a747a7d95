"""Processes that are lost, or have nothing to do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranked import Fit
from torch import Tensor

from dptrain.contracts import ConfigError, DptrainError
from dptrain.training import checkpoint, processes
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


def test_a_killed_rank_is_named_and_the_run_resumed_by_one_process(
    train: Fit, folder: Path, flat: Callable[..., Tensor]
) -> None:
    whole, _ = train(None, lanes=2)
    with Ranks(2, seconds=60, threads=1) as ranks:

        def killing(*, done: int, **_: Any) -> None:
            if done == 4:
                ranks._started[0].kill()
                ranks._started[0].wait()

        started = time.monotonic()
        with pytest.raises(DptrainError, match=r"rank 1 ended \(exit code -9\).*resume=latest"):
            train(ranks, context={"progress": killing, "folder": folder}, checkpoint_seconds=1e9)
        assert time.monotonic() - started < 60
    assert checkpoint.paid(folder) == 5
    resumed, guarantee = train(None, lanes=1, context={"folder": folder})
    assert (guarantee.replayed_steps, guarantee.lost_steps) == (5, 0)
    assert torch.equal(flat(whole.weights), flat(resumed.weights))


def test_a_rank_that_does_not_answer_is_given_up(train: Fit, folder: Path) -> None:
    with Ranks(2, seconds=3, threads=1) as ranks:

        def stopping(*, done: int, **_: Any) -> None:
            if done == 2:
                os.kill(ranks._started[0].pid, signal.SIGSTOP)

        with pytest.raises(DptrainError, match="cannot be reached"):
            train(ranks, context={"progress": stopping, "folder": folder})


def test_idle_ranks_wait(train: Fit) -> None:
    with Ranks(2, seconds=15, threads=1) as ranks:
        train(ranks)
        time.sleep(18)  # longer than a process that computes may say nothing
        train(ranks)
    assert [process.returncode for process in ranks._started] == [0]


def test_an_open_network_is_refused() -> None:
    hosts = ("a", "b")
    spread = Ranks(2, seconds=1)
    spread.hosts = hosts
    with pytest.raises(ConfigError, match=r"performance\.private_network"):
        spread._refuse_open_network()
    trusting = Ranks(2, seconds=1, trusted=True)
    trusting.hosts = hosts
    trusting._refuse_open_network()
    assert trusting.way == " between a, b, over a network declared private"


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.own_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="start fewer processes"):
        processes.own_device("cuda")
    with pytest.raises(ConfigError, match="device=mps"):
        processes.own_device("mps")
    assert processes.own_device("cpu") == torch.device("cpu")
    assert chosen == [1]


def squared(number: int) -> int:
    if number < 0:
        raise ValueError("secret 4711")
    return number * number


def test_each_process_takes_an_item_at_a_time() -> None:
    with Ranks(2, seconds=60, threads=1) as ranks:
        assert list(ranks.each(squared, [1, 2, 3, 4, 5])) == [1, 4, 9, 16, 25]
        assert list(ranks.each(squared, [])) == []
        with pytest.raises(DptrainError, match="rank 1: ValueError") as caught:
            list(ranks.each(squared, [1, -2, 3]))
        assert "4711" not in str(caught.value)
        with pytest.raises(ValueError, match="secret"):
            list(ranks.each(squared, [-1, 2]))
        some = ranks.each(squared, [1, 2, 3])
        assert next(some) == 1
        some.close()
        assert list(ranks.each(lambda number: number + 1, [1, 2])) == [2, 3]
