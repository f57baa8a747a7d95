"""Utility is measured on answers of all processes where they may answer, and is what one process measures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

from dptrain.contracts import Output, Records, Release, Splits
from dptrain.evaluation import utility
from dptrain.evaluation.remote_call import RemoteCall
from dptrain.evaluation.utility import answered, measure_utility


@dataclass(kw_only=True)
class Others:
    """Processes that are told of work as others are, each of which reads what it is told by itself."""

    size: int = 3
    sharded: bool = False
    told: int = 0

    def each(self, call: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        self.told += 1
        calls = [call, *(cloudpickle.loads(cloudpickle.dumps(call)) for _ in range(self.size - 1))]
        for number, item in enumerate(items):
            yield calls[number % self.size](item)


@dataclass(kw_only=True)
class Locked:
    """An interface that holds what cannot be pickled."""

    name: str = "locked"
    lock: Any

    def __call__(self, confidences: Tensor) -> Tensor:
        return confidences


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "AT_ONCE", 6)  # of 20 test records: four batches, the last of two


@pytest.fixture
def release(mlp: nn.Module) -> Release:
    return Release(architecture=lambda: mlp, weights=mlp.state_dict())


def all_answers(release: Release, splits: Splits, ranks: Any = None) -> Tensor:
    return torch.cat(list(answered(release, splits, ranks)))


def test_answers_are_in_order_and_those_of_one_process(release: Release, splits: Splits) -> None:
    others = Others()
    alone = all_answers(release, splits)
    assert torch.equal(alone, release.predict(splits.test.inputs, 6))
    assert torch.equal(all_answers(release, splits, others), alone)
    assert others.told == 1
    mine, theirs = (
        measure_utility(release, splits, confidence=0.95, as_they_are=True, ranks=ranks)
        for ranks in (None, others)
    )
    assert theirs.scores is not None
    assert mine.scores is not None
    assert torch.equal(theirs.scores, mine.scores)
    assert replace(theirs, scores=None) == replace(mine, scores=None)
    assert mine.records == 20


def test_records_with_named_inputs_are_answered_too(splits: Splits) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 3), nn.Linear(5, 3)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.one(inputs["image"].flatten(1)) + self.two(inputs["more"])

    model = Named()
    named = {"image": splits.test.inputs, "more": torch.rand(20, 5)}
    seen = replace(splits, test=Records(named, splits.test.labels))
    release = Release(architecture=lambda: model, weights=model.state_dict())
    assert torch.equal(all_answers(release, seen, Others()), model(named).softmax(-1).detach())


def test_what_others_cannot_or_may_not_answer_is_answered_here(release: Release, splits: Splits) -> None:
    locked: Output = Locked(lock=threading.Lock())
    alone = all_answers(release, splits)
    ledger = Release(predictions=lambda inputs: torch.full((len(inputs), 3), 1 / 3), answers=1)
    one_batch = replace(splits, test=splits.test.take(torch.arange(6)))
    for asked, seen, others in (
        (release, splits, Others(sharded=True)),  # of which one process does not hold all
        (replace(release, output=locked), splits, Others()),
        (ledger, splits, Others()),
        (Release(labels=lambda inputs: torch.zeros(len(inputs), dtype=torch.int64)), splits, Others()),
        (release, one_batch, Others()),
    ):
        found = all_answers(asked, seen, others)
        assert len(found) == len(seen.test)
        assert others.told == 0
        if asked.weights is not None:
            assert torch.equal(found, alone[: len(found)])


class Counting:
    """A function that counts how often it is pickled, and read."""

    pickled = read = 0

    def __reduce__(self) -> Any:
        Counting.pickled += 1
        return _read, ()

    def __call__(self, item: int) -> int:
        return item + 1


def _read() -> Counting:
    Counting.read += 1
    return Counting()


def test_what_is_told_is_pickled_once_and_read_once() -> None:
    told = RemoteCall.of(Counting())
    assert told is not None
    other = cloudpickle.loads(cloudpickle.dumps(told))
    assert [other(1), other(2), told(3)] == [2, 3, 4]
    assert (Counting.pickled, Counting.read) == (1, 1)
    assert RemoteCall.of(partial(len, threading.Lock())) is None
