"""Every layer that Opacus' own tests of per-sample gradients go over, and more, against a slow loop.

The clipped sum of an engine in single precision, and one backward pass a record in double precision.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import script
from torch import Tensor, nn

from dptrain.contracts import ConfigError
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.agreement import Chosen, choose
from dptrain.privacy.bookkeeping.module import FORWARDS, BookkeepingModule
from dptrain.privacy.bookkeeping.uses import NoRule
from dptrain.privacy.clipping import KINDS, Clipper, gradient_norms
from dptrain.privacy.dpsgd import DPSGDEngine, RecordGradients
from dptrain.privacy.gradients import ByRules, InFull, OneByOne
from dptrain.privacy.stilled import stilled

pytestmark = pytest.mark.run

catalogue = script("layer_models")
CASES = {case.name: case for case in catalogue.CASES}
OUTSIDE = {  # a parameter is used where no layer of its own sees it: the whole model is formed in full
    "child's weight through F.linear": InFull,
    "ParameterDict": InFull,
    "Parameter": InFull,
    "Parameter and dropout": InFull,
    "weight_norm": InFull,
    "weight_norm of a convolution": InFull,
    "shared place embedding": InFull,
    "class token": InFull,
    "tied through F.linear": InFull,
    "LoRA": InFull,
    "packed LSTM": OneByOne,
}
# What Opacus' hooks do not see or see wrongly, by the start of a name: refused, with the layer's name.
NOT_BY_HOOKS = (
    "inplace", "Bilinear", "EmbeddingBag max, offsets=1", "EmbeddingBag sum, offsets=1",
    "EmbeddingBag mean, offsets=1", "RNN", "GRU", "LSTM", "packed LSTM", "MultiheadAttention",
    "DPMultiheadAttention", "Transformer", "child's weight", "ParameterDict", "Parameter and dropout",
    "shared place", "time-first", "tied through", "LoRA",
)  # fmt: skip
NAMED = {  # what the rules alone would have got wrong, and how it is told
    "child's weight through F.linear": "`first.weight` does not come record by record from its own layer",
    "ParameterDict": "`weights.first` does not come record by record",
    "tied through F.linear": "`table.weight` does not come record by record",
    "LoRA": "`0.down.weight` does not come record by record",
    "shared place embedding": "layer `places` returns (5, 6), of which no axis is the records",
}
RECORDS = 5
record_loss = partial(nn.functional.cross_entropy, reduction="none")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")
        warnings.filterwarnings("ignore", message="LSTM with projections")
        warnings.filterwarnings("ignore", message="dropout option adds dropout")
        yield


def batch(case: Any, count: int = RECORDS, copies: int = 1) -> tuple[Tensor, Tensor]:
    inputs = case.inputs(count * copies, torch.Generator().manual_seed(1))
    return inputs, torch.arange(count).repeat_interleave(copies) % 2


def rows_alone(model: nn.Module, inputs: Tensor, labels: Tensor, copies: int = 1) -> list[Tensor]:
    """Gradients in double precision, one backward pass a record: (records, ...) a parameter."""
    model = copy.deepcopy(model).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for alone, label in zip(inputs.split(copies), labels.split(copies), strict=True):
        loss = record_loss(model(alone), label).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def engine_of(kind: str, model: nn.Module, plan: DPSGDPlan, chosen: Chosen | None = None) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    made = torch.Generator()
    return DPSGDEngine(kind, model, optimizer, plan, loss=record_loss, generator=made, chosen=chosen)


def apart(engine: Any, model: nn.Module, batch: tuple[Tensor, Tensor], copies: int = 1) -> dict[str, float]:
    """How far the engine's sum is from the slow one's, over its length, in every clipping mode."""
    gradients = rows_alone(model, *batch, copies)
    limit = float(torch.linalg.vector_norm(gradient_norms(gradients), dim=0).median())
    found = {}
    for clipping in KINDS:
        engine.optimizer.clipper = clipper = Clipper.of(model, clipping, limit)
        factors = clipper.factors(gradient_norms(gradients))
        sums = [torch.einsum("i,i...", f, g).flatten() for f, g in zip(factors, gradients, strict=True)]
        engine.optimizer.zero_grad()
        engine.accumulate(*batch, copies)
        slow = torch.cat(sums)
        found[clipping] = float((engine.total().double() - slow).norm() / slow.norm())
    return found


@pytest.mark.parametrize("name", [name for name in CASES if name != "old weight_norm"])
def test_the_clipped_sum_is_that_of_a_slow_loop(make_plan_of: Callable[..., DPSGDPlan], name: str) -> None:
    """By the rules wherever layers see every use of their parameters; elsewhere it is told why, by name."""
    case = CASES[name]
    model, (inputs, labels) = case.make(), batch(case)
    chosen = choose("bookkeeping", model, record_loss, inputs)
    assert getattr(chosen.make, "func", chosen.make) is OUTSIDE.get(name, ByRules)
    assert (chosen.note == "") is (name not in OUTSIDE)
    assert NAMED.get(name, "") in chosen.note
    engine = engine_of("bookkeeping", copy.deepcopy(model), make_plan_of(), chosen)
    with stilled():
        found = apart(engine, model, (inputs, labels))
        assert max(found.values()) <= 1e-5, found
        if name not in OUTSIDE and any(type(layer) in FORWARDS for layer in model.modules()):
            module = engine.gradients.module  # forward passes of ours, in place of PyTorch's
            with module.recording(RECORDS, 1):
                torch.testing.assert_close(module(inputs), model(inputs), rtol=0, atol=1e-6)
            assert all("forward" not in vars(layer) for layer in module.modules())


@pytest.mark.parametrize("name", [name for name in CASES if name != "old weight_norm"])
def test_hooks_give_the_sum_of_a_slow_loop_or_are_refused_by_name(
    make_plan_of: Callable[..., DPSGDPlan], name: str
) -> None:
    case = CASES[name]
    model, (inputs, labels) = case.make(), batch(case)
    if name.startswith(NOT_BY_HOOKS) or "weighted=True" in name:
        by_name = r"mechanism\.engine=hooks .*`.*use mechanism\.engine=bookkeeping"
        with pytest.raises(ConfigError, match=by_name):
            choose("hooks", model, record_loss, inputs)
        return
    engine = engine_of("hooks", copy.deepcopy(model), make_plan_of())
    with stilled():
        found = apart(engine, model, (inputs, labels))
    assert max(found.values()) <= 1e-5, found


def test_an_older_weight_norm_is_refused_by_name() -> None:
    case = CASES["old weight_norm"]
    with pytest.raises(ConfigError, match=r"use torch\.nn\.utils\.parametrizations"):
        choose("bookkeeping", case.make(), record_loss, batch(case)[0])


@pytest.mark.parametrize("name", ["Conv2d reflect", "LSTM both ways", "TransformerEncoder batch_first=False, norm_first=True, dropout=0.0", "tied table", "ParameterDict", "EmbeddingBag mean, offsets=0, padding_idx=2, weighted=False", "Embedding scale_grad_by_freq", "time-first linear"])  # fmt: skip # noqa: E501
def test_copies_of_a_record_are_averaged_before_clipping(
    make_plan_of: Callable[..., DPSGDPlan], name: str
) -> None:
    case = CASES[name]
    model, given = case.make(), batch(case, copies=3)
    found = apart(engine_of("bookkeeping", copy.deepcopy(model), make_plan_of()), model, given, 3)
    assert max(found.values()) <= 1e-5, found


@pytest.mark.parametrize("name", ["time-first linear", "MultiheadAttention time first, cross=True, masked=True, weights=True", "LSTM two layers both ways", "DPLSTM time first", "DPMultiheadAttention add_bias_kv=True"])  # fmt: skip # noqa: E501
def test_sequences_as_long_as_there_are_records(make_plan_of: Callable[..., DPSGDPlan], name: str) -> None:
    """Length five: with five records, nothing but the model's own order tells the two axes apart."""
    case = CASES[name]
    model = case.make()
    engine = engine_of("bookkeeping", copy.deepcopy(model), make_plan_of())
    for count in (1, 4, 5, 6):
        found = apart(engine, model, batch(case, count))
        assert max(found.values()) <= 1e-5, (count, found)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.random])
def test_masks_are_drawn_once(make_plan_of: Callable[..., DPSGDPlan], name: str) -> None:
    """Without clipping, the sum is the gradient of the very loss that was computed, masks and all."""
    case = CASES[name]
    model, (inputs, labels) = case.make().double(), batch(case)
    inputs = inputs.double()
    # A limit that no record reaches, on whose grid of sums rounding stays below the tolerance.
    engine = engine_of("bookkeeping", copy.deepcopy(model), make_plan_of(max_grad_norm=1e3))
    engine.prepare(inputs)
    for seed in (1, 2):
        torch.manual_seed(seed)
        engine.optimizer.zero_grad()
        loss = engine.accumulate(inputs, labels)
        torch.manual_seed(seed)
        expected = record_loss(model(inputs), labels).sum()
        gradients = torch.autograd.grad(expected, list(model.parameters()))
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-9, check_dtype=False)
        total = torch.cat([each.flatten() for each in gradients])
        torch.testing.assert_close(engine.total(), total, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.random][:3])
def test_the_comparison_leaves_generators_as_they_were(name: str) -> None:
    case = CASES[name]
    before = torch.get_rng_state()
    choose("bookkeeping", case.make(), record_loss, batch(case)[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["ParameterDict", "Conv1d circular", "tied table"])
def test_the_comparison_looks_at_no_value_of_a_record(name: str) -> None:
    case = CASES[name]
    inputs, _ = batch(case)
    spoilt = torch.full_like(inputs, math.nan if inputs.is_floating_point() else -1)
    found = [choose("bookkeeping", case.make(), record_loss, given) for given in (inputs, spoilt)]
    assert repr(found[0]) == repr(found[1])


class Mixed(nn.Module):
    """A model that centres its records: no way to single gradients is right."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.head(hidden - hidden.mean(0) if len(hidden) > 1 else hidden)


def test_rules_are_not_used_for_a_model_that_mixes_records() -> None:
    chosen = choose("bookkeeping", Mixed(), record_loss, torch.zeros(4, 8))
    assert chosen.make is InFull  # which shows each record to the model alone
    with pytest.raises(ConfigError, match="computes other gradients than PyTorch"):
        choose("hooks", Mixed(), record_loss, torch.zeros(4, 8))


class Late(nn.Module):
    """A weight that starts at zero hides that another one is used outside its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Embedding(8, 4), nn.Linear(4, 2)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.up(inputs @ self.down.weight)


def test_weights_at_zero_hide_nothing() -> None:
    assert choose("bookkeeping", Late(), record_loss, torch.zeros(4, 8)).make is InFull


@pytest.mark.parametrize("break_rule", ["norm", "sum"])
def test_a_broken_rule_is_caught_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, break_rule: str
) -> None:
    """Broken on purpose: half the norm, or half the sum, of convolutions."""
    from dptrain.privacy.bookkeeping import module

    original = module.RULES[nn.Conv2d]

    class Halved:
        def __init__(self, share: Any) -> None:
            self.share = share

        @property
        def norms(self) -> Tensor:
            return self.share.norms / (2 if break_rule == "norm" else 1)

        def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
            return self.share.weighted(factors, zeros=zeros) / (2 if break_rule == "sum" else 1)

        def rows(self) -> Tensor:
            return self.share.rows()

    def halved(use: Any) -> dict[Tensor, Any]:
        return {parameter: Halved(share) for parameter, share in original(use).items()}

    monkeypatch.setitem(module.RULES, nn.Conv2d, halved)  # type: ignore[arg-type]
    case = CASES["Conv2d plain"]
    chosen = choose("bookkeeping", case.make(), record_loss, batch(case)[0])
    assert chosen.make is InFull
    assert "`0." in chosen.note


@pytest.mark.parametrize("way", ["rules", "in full", "one by one"])
def test_physical_parts_of_models_in_full_add_up(
    monkeypatch: pytest.MonkeyPatch, make_plan_of: Callable[..., DPSGDPlan], way: str
) -> None:
    name = {"rules": "Linear 1d bias=True", "in full": "ParameterDict", "one by one": "packed LSTM"}[way]
    case, sums = CASES[name], []
    inputs, labels = batch(case)
    for held in (1, 10**9):
        monkeypatch.setattr("dptrain.privacy.gradients.HELD", held)
        engine = engine_of("bookkeeping", case.make(), make_plan_of(max_grad_norm=0.5))
        engine.accumulate(inputs, labels)
        sums.append(engine.total())
        rows = RecordGradients(case.make(), record_loss, Clipper.of(case.make(), "flat", 0.5))
        torch.testing.assert_close(rows(inputs, labels).sum(0), sums[-1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(["sum", "mean", "max"]),
    padding=st.sampled_from([None, 0, 3]),
    by_frequency=st.booleans(),
    lengths=st.lists(st.integers(0, 5), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_bags_of_any_lengths(
    mode: str, padding: int | None, by_frequency: bool, lengths: list[int], seed: int
) -> None:
    """Ragged and empty bags; one record alone is a bag alone."""
    generator = torch.Generator().manual_seed(seed)
    bag = nn.EmbeddingBag(
        5, 3, mode=mode, padding_idx=padding, scale_grad_by_freq=by_frequency and mode != "max"
    ).double()
    entries = [torch.randint(5, (length,), generator=generator) for length in lengths]
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    module = BookkeepingModule(bag)
    pull = torch.randn(len(lengths), 3, generator=generator, dtype=torch.float64)
    with module.recording(len(lengths), 1) as tape:
        tape.backward((bag(torch.cat(entries), starts) * pull).sum())
    rows = tape.shares[bag.weight].rows()
    for number, alone in enumerate(entries):
        bag.zero_grad()
        (bag(alone, torch.tensor([0])) * pull[number]).sum().backward()
        torch.testing.assert_close(rows[number], bag.weight.grad)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_recurrent_layers(data: st.DataObject) -> None:
    layer = data.draw(st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]))
    options: dict[str, Any] = {
        "num_layers": data.draw(st.integers(1, 3)),
        "bidirectional": data.draw(st.booleans()),
        "bias": data.draw(st.booleans()),
        "batch_first": data.draw(st.booleans()),
    }
    if layer is nn.LSTM:
        options["proj_size"] = data.draw(st.integers(0, 2))
    count, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    with torch.random.fork_rng():
        torch.manual_seed(data.draw(st.integers(0, 99)))
        model = layer(2, 3, **options).double()
        sequences = torch.randn(count, length, 2, dtype=torch.float64)
    axis = 0 if options["batch_first"] else 1
    inputs = sequences if axis == 0 else sequences.transpose(0, 1)
    module = BookkeepingModule(model)
    with module.recording(count, 1) as tape:
        outputs, _ = module(inputs)
        torch.testing.assert_close(outputs, layer.forward(model, inputs)[0], rtol=0, atol=1e-9)
        tape.backward(outputs.square().sum())
    for number in range(count):
        model.zero_grad()
        layer.forward(model, inputs.narrow(axis, number, 1))[0].square().sum().backward()
        for parameter in model.parameters():
            torch.testing.assert_close(tape.shares[parameter].rows()[number], parameter.grad)


def test_a_sequence_without_an_axis_of_records_has_no_rule() -> None:
    module = BookkeepingModule(nn.LSTM(2, 3))
    with pytest.raises(NoRule), module.recording(4, 1):
        module(torch.zeros(4, 2))
