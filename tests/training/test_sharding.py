"""A model that is divided among processes is trained as by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from ranked import Fit, Looking, control_agrees, observers_agree, releases_agree
from torch import Tensor, nn

from dptrain.contracts import ConfigError, Splits, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.privacy.bookkeeping.shares import Instantiated
from dptrain.privacy.noise.source import BLOCK, NoiseSource
from dptrain.privacy.sharded import ByShards
from dptrain.training import means
from dptrain.training.augment import Augmentation
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Two processes that help this one."""
    with Ranks(3, seconds=120, threads=1, sharded=True) as started:
        yield started


CASES: dict[str, dict[str, Any]] = {
    "gathered one by one": {"name": "wide"},
    "convolutions": {"name": "cnn"},
    "attention": {"name": "transformer", "rates": {"steps": 3}},
    "a residual network": {
        "name": "resnet18",
        "rates": {"steps": 2},
        "mechanism": partial(DPSGD, audit_sensitivity=False),
    },
    "updates of low rank": {"name": "adapted"},
    "double precision": {"context": {"dtype": torch.float64}, "rates": {"steps": 50}},
    "empty ranks": {"rates": {"expected_batch_size": 1, "steps": 20}},
    "groups": {"unit": "group"},
    "copies": {"augmentation": Augmentation(copies=2, shift=1, flip=False)},
    "per layer": {"mechanism": partial(DPSGD, clipping="per_layer"), "name": "wide"},
    "an average": {"average_decay": 0.9, "schedule": "cosine", "evaluations": 3},
    "Adam": {"optimizer": partial(torch.optim.Adam, lr=0.01), "name": "wide"},
}


@pytest.mark.parametrize("case", CASES)
def test_three_processes_release_bit_for_bit_what_one_does(
    train: Fit, ranks: Ranks, flat: Callable[..., Tensor], splits: Splits, case: str
) -> None:
    said = releases_agree(train, ranks, flat, splits, dict(CASES[case]))
    assert "3 processes computed the training" in said
    assert "the keys that each step's noise is drawn from" in said


def test_the_control_is_the_same_but_for_rounding(
    train: Fit, ranks: Ranks, flat: Callable[..., Tensor]
) -> None:
    control_agrees(train, ranks, flat)


@pytest.mark.parametrize("copies", [0, 2])
def test_observers_see_the_same(train: Fit, ranks: Ranks, copies: int) -> None:
    observers_agree(train, ranks, copies)


def test_the_variance_of_noise_is_that_of_the_plan(train: Fit, ranks: Ranks) -> None:
    looking = Looking()
    context = {"observers": (looking,), "streams": Streams(seed=1)}
    train(ranks, context=context, name="wide", rates={"steps": 3}, physical_batch_size=512)
    drawn = torch.cat(looking.noise)
    assert len(drawn) > 300_000  # whose variance is off by .3 % at most, but for one in a hundred
    assert float(drawn.var()) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("cuts", [(0,), (5, 5, 70), (BLOCK - 1, BLOCK, BLOCK + 1), (2 * BLOCK + 3,)])
def test_noise_does_not_depend_on_who_adds_it(cuts: tuple[int, ...]) -> None:
    size = 2 * BLOCK + 10
    whole = torch.linspace(-3, 3, size, dtype=torch.float64)
    expected = NoiseSource(bytes(32)).add([whole], 1.5)[0]
    starts = [0, *cuts]
    parts = list(whole.tensor_split(list(cuts)))
    key, found = NoiseSource(bytes(32)).next_key(), []
    for start, part in zip(starts, parts, strict=True):  # each by another process
        found += NoiseSource(bytes(32)).add_to_parts(key, [part], [start], 1.5, size=size)
    assert torch.equal(torch.cat(found), expected)


# ------------------------------------------------------------------ what cannot be divided


class Doubled(ByShards):
    """Rules that are wrong for one parameter."""

    def __call__(self, *given: Any) -> Any:
        loss, shares = super().__call__(*given)
        return loss, [*shares[:-1], Instantiated.of([2 * shares[-1].rows()])]


def test_wrong_gradients_are_found_before_anything_is_paid_for(
    train: Fit, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(means, "ByShards", Doubled)
    with pytest.raises(ConfigError, match=r"the gradient of `3\.bias` does not come record by record"):
        train(ranks, name="wide")
    monkeypatch.undo()
    train(ranks, name="wide")  # who work on


class Scaled(nn.Module):
    """A model with a parameter that is a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(64, 3), nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.layer(inputs.flatten(1))


def test_gradients_by_hooks_are_refused(train: Fit, ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"performance\.sharding=fsdp2: Opacus' hooks need the whole"):
        train(ranks, mechanism=partial(DPSGD, engine="hooks"))


def test_bfloat16_is_refused(train: Fit, ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"performance\.sharding=fsdp2 computes in single precision"):
        train(ranks, context={"bfloat16": True})


def test_correlated_noise_is_refused(train: Fit, ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"draws each step's noise by itself"):
        train(ranks, mechanism=partial(DPSGD, noise="banded", bands=4))


def test_a_single_number_is_refused(train: Fit, ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"performance\.sharding=fsdp2"):
        train(ranks, made=Scaled())
