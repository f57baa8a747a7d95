"""One record more moves the sum of a batch by what it adds itself, however the others are rounded.

In single precision it need not: a record that lifts the sum over a power of two has all that come after it
rounded otherwise (Casacuberta et al. 2022, "Widespread Underestimation of Sensitivity in DP Libraries").
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from functools import partial, reduce
from typing import Any

import pytest
import torch
from support import script
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.contracts import ConfigError
from dptrain.privacy import clipping
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.agreement import ROWS_AT_MOST
from dptrain.privacy.bookkeeping import costs
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.bookkeeping.uses import NoRule
from dptrain.privacy.dpsgd import ENGINES, DPSGDEngine
from dptrain.privacy.gradients import ByHooks, ByRules, OneByOne
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.stilled import stilled

pytestmark = pytest.mark.run

CASES = {case.name: case for case in script("layer_models").CASES if case.name != "old weight_norm"}
WAYS = (costs.KEEP, costs.GRAM, costs.TWICE)
RECORDS = 12
record_loss = partial(F.cross_entropy, reduction="none")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")
        warnings.filterwarnings("ignore", message="LSTM with projections")
        warnings.filterwarnings("ignore", message="dropout option adds dropout")
        yield


@pytest.mark.parametrize("name", CASES)
def test_what_a_record_adds_is_the_same_whatever_is_added_with_it(name: str, monkeypatch) -> None:
    """A record's part of the sum, taken away, leaves the sum of the others, to double precision."""
    case = CASES[name]
    model, inputs = case.make(), case.inputs(RECORDS, torch.Generator().manual_seed(1))
    labels, factors = torch.arange(RECORDS) % 2, 0.1 + torch.rand(RECORDS, generator=torch.Generator())
    for way in WAYS:
        monkeypatch.setattr(costs, "way", lambda way=way, **_: way)
        for share in shares_of(model, inputs, labels):
            together = share.weighted(factors, zeros=False)
            assert together.dtype == torch.float64
            scale = float((share.rows().double().abs().flatten(1).sum(1) * factors).sum())
            for record in (0, RECORDS // 2, RECORDS - 1):
                without = factors.index_fill(0, torch.tensor([record]), 0.0)
                moved = together - share.weighted(without)
                alone = share.weighted(factors - without)
                assert float((moved - alone).abs().max()) <= 1e-13 * scale


def shares_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Share]:
    """By the rules of layers, or in full where there are none."""
    with stilled():
        try:
            _, found = ByRules(copy.deepcopy(model), record_loss)(inputs, labels, 1)
        except (ConfigError, NoRule, RuntimeError):
            _, found = OneByOne(model, record_loss)(inputs, labels, 1)
    return [share for share in found if share is not None]


# Others that bring a sum to just below a power of two, and then many a little more than half of what single
# precision tells apart above it. A record before them lifts the sum over the power: all those count double.
def lifted(count: int, positions: int) -> tuple[Tensor, Tensor]:
    """One record, and others whose terms over positions cancel but for very little: (count, positions)."""
    power = 13
    little = 0.51 * 2.0 ** (power - 23)
    other = torch.tensor([2.0**power - 0.6, *[little] * (positions - 2), 0.6 - 2.0**power])
    first = torch.zeros(1, positions)
    first[0, 0] = 0.998
    return first, other.expand(count - 1, positions)


def one_after_the_other(count: int) -> tuple[Tensor, Tensor]:
    """One record, and others of one position each, which do not cancel: (count, 1)."""
    power = math.floor(math.log2(count)) - 1
    steps = math.ceil((2.0**power - 0.75) / 0.99)
    near = torch.full((steps,), (2.0**power - 0.75) / steps)
    little = torch.full((count - 1 - steps,), 0.51 * 2.0 ** (power - 23))
    return torch.tensor([[0.997]]), torch.cat([near, little])[:, None]


class Constant(nn.Module):
    """What a layer makes of one input alike at all positions."""

    def __init__(self, layer: nn.Module, value: Tensor) -> None:
        super().__init__()
        self.layer, self.value = layer, value

    def forward(self, rows: Tensor) -> Tensor:
        positions = rows.shape[1:]
        made: Tensor = self.layer(self.value.expand(len(rows), *positions, *self.value.shape))
        return made.flatten(1)


class Shifted(nn.Module):
    """The shift of a LayerNorm, whose gradient is that of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LayerNorm(2)
        self.layer.weight.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.layer(torch.stack([rows * 0, rows * 0 + 1], dim=-1))
        return made[..., 0]


LAYERS: dict[str, Any] = {
    "Linear": lambda: Constant(nn.Linear(1, 1, bias=False), torch.ones(1)),
    "its bias": lambda: Constant(nn.Linear(1, 1), torch.zeros(1)),
    "LayerNorm": Shifted,
    "Embedding": lambda: Constant(nn.Embedding(2, 1), torch.tensor(1)),
}
OTHERS: dict[str, Any] = {
    "256 that cancel": partial(lifted, 256, 8),
    "4096 that do not": partial(one_after_the_other, 4096),
}


def moved(kind: str, layer: str, others: str) -> tuple[float, float]:
    """How far one record moves the sum, and what it adds alone, of the 1.0 that is claimed."""
    first, rest = OTHERS[others]()
    plan = DPSGDPlan(
        units=60_000,
        sample_rate=256 / 60_000,
        steps=1,
        expected_batch_size=256,
        max_grad_norm=1.0,
        noise_multiplier=1.0,
    )

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return (outputs * wanted).sum(1)

    def total(wanted: Tensor) -> Tensor:
        model = LAYERS[layer]()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        engine = DPSGDEngine(kind, model, optimizer, plan, loss=loss, generator=NoiseSource(bytes(32)))
        with stilled():
            engine.prepare(rest[:1] * 0, labels=torch.rand(ROWS_AT_MOST, rest.shape[1]))
            engine.accumulate(torch.zeros_like(wanted), wanted)
        assert type(engine.gradients) is {"bookkeeping": ByRules, "hooks": ByHooks}[kind]
        return engine.sum().clone()

    together = total(torch.cat([first, rest]))
    return float((together - total(rest)).norm()), float(total(first).norm())


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ENGINES)
def test_a_record_that_lifts_the_sum_over_a_power_of_two_moves_it_by_itself_alone(
    kind, layer, others
) -> None:
    by, alone = moved(kind, layer, others)
    assert by == pytest.approx(alone, abs=1e-9)
    assert by <= 1.0


def test_sums_in_single_precision_would_be_moved_by_more_than_is_claimed(monkeypatch) -> None:
    """What the test above catches."""

    def single(gradient: Tensor, factors: Tensor, *, zeros: bool = True) -> Tensor:
        return reduce(torch.add, clipping.scaled(gradient, factors, zeros=zeros).unbind(0))

    monkeypatch.setattr("dptrain.privacy.bookkeeping.shares.weighted_sum", single)
    by, _ = moved("hooks", "LayerNorm", "4096 that do not")
    assert by > 1.05
