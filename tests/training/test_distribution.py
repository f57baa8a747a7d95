"""Several processes train the very model that one does, or say why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranked import Fit, Looking, control_agrees, observers_agree, releases_agree
from torch import Tensor, nn

from dptrain.contracts import (
    BrokenGuarantee,
    ConfigError,
    DptrainError,
    Splits,
    Streams,
)
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.privacy.noisy import on_grid
from dptrain.training import checkpoint, distribution
from dptrain.training.augment import Augmentation
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Two processes that help this one."""
    with Ranks(3, seconds=60, threads=1) as started:
        yield started


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.randoms())
def test_sums_on_the_grid_are_the_same_in_any_order(numbers: list[float], random: Any) -> None:
    rounded = [on_grid(torch.tensor([each], dtype=torch.float64), 2.0**-45) for each in numbers]
    shuffled = list(rounded)
    random.shuffle(shuffled)
    assert sum(rounded).item() == sum(shuffled).item()
    assert sum(rounded).item() == pytest.approx(sum(numbers), abs=40 * 2.0**-46)


CASES: dict[str, dict[str, Any]] = {
    "records": {},
    "convolutions": {"name": "cnn"},
    "double precision": {"context": {"dtype": torch.float64}, "rates": {"steps": 50}},
    "empty ranks": {"rates": {"expected_batch_size": 1, "steps": 30}},
    "a rate of .0004": {"rates": {"sample_rate": 0.0004, "expected_batch_size": None, "steps": 50}},
    "groups": {"unit": "group"},
    "copies": {"augmentation": Augmentation(copies=2, shift=1, flip=False)},
    "shuffled": {"rates": {"sampling": "shuffle"}},
    "correlated noise": {"mechanism": partial(DPSGD, noise="banded", bands=3)},
    "an average": {"average_decay": 0.9, "schedule": "cosine", "evaluations": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_three_processes_release_bit_for_bit_what_one_does(
    train: Fit, ranks: Ranks, flat: Callable[..., Tensor], splits: Splits, case: str
) -> None:
    options = dict(CASES[case])
    if case == "a rate of .0004":
        options["data"] = replace(splits, train=splits.train.take(torch.arange(5000) % len(splits.train)))
    said = releases_agree(train, ranks, flat, splits, options)
    assert "3 processes computed the training" in said


def test_the_control_is_the_same_but_for_rounding(
    train: Fit, ranks: Ranks, flat: Callable[..., Tensor]
) -> None:
    control_agrees(train, ranks, flat)


@pytest.mark.parametrize("copies", [0, 2])
def test_observers_see_the_same(train: Fit, ranks: Ranks, copies: int) -> None:
    observers_agree(train, ranks, copies)


def test_noise_is_added_once(train: Fit, ranks: Ranks) -> None:
    looking = Looking()
    context = {"observers": (looking,), "streams": Streams(seed=1)}
    train(ranks, context=context, rates={"steps": 400}, physical_batch_size=512)
    drawn = torch.cat(looking.noise)
    assert len(drawn) > 300_000  # whose variance is off by .3 % at most, but for one in a hundred
    assert float(drawn.var()) == pytest.approx(1.0, rel=0.01)


def test_weights_that_differ_are_noticed(train: Fit, ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "fingerprint", lambda _: "of other weights")
    with pytest.raises(DptrainError, match="different weights"):
        train(ranks)


def twice(engine: Any, *arguments: Any, **others: Any) -> Any:
    """An engine whose sums are twice what they should be."""
    made = engine(*arguments, **others)
    plainly = made.sum
    made.sum = lambda: 2 * plainly()
    return made


def broken(job: Any, **changes: Any) -> Any:
    return replace(job, **changes)


class Spoilt:
    """The same ranks, told of another job."""

    def __init__(self, ranks: Ranks, change: Callable[[Any], Any]) -> None:
        self.ranks, self.change = ranks, change
        self.size, self.way, self.sharded = ranks.size, ranks.way, False

    def team(self, job: Any) -> Any:
        return self.ranks.team(self.change(job))


def test_wrong_sums_of_a_rank_break_the_audit(train: Fit, ranks: Ranks) -> None:
    spoilt = Spoilt(ranks, lambda job: replace(job, engine=partial(twice, job.engine)))
    with pytest.raises(BrokenGuarantee, match="not what one process makes"):
        train(spoilt, rates={"steps": 1, "expected_batch_size": 40})
    train(ranks)  # who work on


def fails(*_: Any, **__: Any) -> None:
    raise ConfigError("model: has had enough")


def crashes(*_: Any, **__: Any) -> None:
    raise ValueError("secret 4711")


class Later:
    """An engine that fails at work."""

    def __init__(self, engine: Any, model: nn.Module, optimizer: Any) -> None:
        self.engine = engine(model, optimizer)
        self.sum, self.forget = self.engine.sum, self.engine.forget

    def accumulate(self, *_: Any) -> Tensor:
        raise ValueError("secret 4711")


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (lambda _: fails, "rank 1: model: has had enough"),
        (lambda _: crashes, "rank 1: ValueError"),
        (lambda engine: partial(Later, engine), "rank 1: ValueError"),
    ],
)
def test_what_fails_in_a_rank_is_said_by_the_first(
    train: Fit, ranks: Ranks, flat: Callable[..., Tensor], engine: Any, said: str
) -> None:
    spoilt = Spoilt(ranks, lambda job: replace(job, engine=engine(job.engine)))
    with pytest.raises(DptrainError, match=said) as caught:
        train(spoilt, rates={"expected_batch_size": 40})
    assert "4711" not in str(caught.value)
    (alone, _), (together, _) = train(None), train(ranks)
    assert torch.equal(flat(alone.weights), flat(together.weights))


def test_an_error_of_the_first_leaves_the_others_ready(train: Fit, ranks: Ranks) -> None:
    def interrupted(*, done: int, **_: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(ranks, context={"progress": interrupted})
    train(ranks)


# ------------------------------------------------------------------ the same noise, on the same sum alone


def test_a_sum_that_rounds_otherwise_is_never_given_the_same_noise(
    train: Fit, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"lanes": 1, "checkpoint_seconds": 1e9, "name": "cnn"}
    looking, context = Looking(), {"folder": folder, "streams": Streams(seed=4)}

    def interrupted(*, done: int, **_: Any) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(None, context={**context, "progress": interrupted, "observers": (looking,)}, **options)
    assert checkpoint.paid(folder) == 5
    monkeypatch.setattr("dptrain.privacy.noisy.on_grid", lambda sums, step: on_grid(sums, step) + step)
    again = Looking()
    _, guarantee = train(None, context={**context, "observers": (again,)}, **options)
    assert (guarantee.replayed_steps, guarantee.lost_steps) == (0, 5)
    assert checkpoint.paid(folder) == guarantee.plan.steps == 8
    assert checkpoint.load(folder)["step"] == 3
    before, after = ({tuple(each.tolist()) for each in seen.noise} for seen in (looking, again))
    assert (len(before), len(after), before & after) == (5, 3, set())
    assert guarantee.statement().lost_steps == 5


def test_records_of_a_shuffled_pass_are_not_taken_twice(
    train: Fit, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"lanes": 1, "checkpoint_seconds": 1e9, "rates": {"sampling": "shuffle"}}

    def interrupted(*, done: int, **_: Any) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(None, context={"folder": folder, "progress": interrupted}, **options)
    monkeypatch.setattr("dptrain.privacy.noisy.on_grid", lambda sums, step: sums + step)
    with pytest.raises(DptrainError, match="start a new run"):
        train(None, context={"folder": folder}, **options)


def test_tags_of_steps_that_are_still_to_be_repeated_outlive_a_checkpoint(tmp_path: Any) -> None:
    for step in (1, 2, 3):
        checkpoint.seal(tmp_path, step=step, tag=bytes([step]) * 16)
    checkpoint.seal(tmp_path, step=2, tag=bytes(16))
    assert checkpoint.seals(tmp_path) == {step: bytes([step]) * 16 for step in (1, 2, 3)}
    checkpoint.forget_seals(tmp_path, until=1)
    assert set(checkpoint.seals(tmp_path)) == {2, 3}
    assert (tmp_path / checkpoint.SEALS).stat().st_mode & 0o077 == 0
    with (tmp_path / checkpoint.SEALS).open("ab") as file:
        file.write(b"half")
    assert set(checkpoint.seals(tmp_path)) == {2, 3}
    checkpoint.seal(tmp_path, step=4, tag=bytes(16))
    assert set(checkpoint.seals(tmp_path)) == {2, 3, 4}
    checkpoint.forget_seals(tmp_path)
    assert checkpoint.seals(tmp_path) == {}
