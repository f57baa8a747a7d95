"""No record contributes more than max_grad_norm, whatever its gradient."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dptrain.privacy.bookkeeping import costs
from dptrain.privacy.clipping import KINDS, MARGIN, Clipper, gradient_norms, scaled, weighted_sum
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.tasks.classification import make_loss

pytestmark = pytest.mark.run

SHAPES = ((3, 4), (3,), (2, 3), (2,))  # weights and biases of two layers
LAYERS = {"flat": (0, 0, 0, 0), "automatic": (0, 0, 0, 0), "per_layer": (0, 0, 1, 1)}

numbers = st.one_of(
    st.floats(-10, 10),
    st.sampled_from([0.0, 1e-30, -1e-12, 1e10, -3e18, 1e19, 3e38, math.inf, -math.inf, math.nan]),
)


def clipped(kind, gradients, limit=1.0):
    """What each record contributes, and that the two ways to add it up agree: (records, parameters)."""
    clipper = Clipper(kind=kind, max_grad_norm=limit, layers=LAYERS[kind])
    factors = clipper.factors(gradient_norms(gradients))
    rows = [scaled(g, f) for g, f in zip(gradients, factors, strict=True)]
    for gradient, factor, row in zip(gradients, factors, rows, strict=True):
        torch.testing.assert_close(weighted_sum(gradient, factor), row.double().sum(0))
    return torch.cat([row.flatten(1) for row in rows], dim=1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_contribution_is_bounded_for_any_gradient(kind, data):
    limit = data.draw(st.floats(0.01, 100))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    size = sum(math.prod(shape) for shape in SHAPES)
    rows = data.draw(st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=1, max_size=3))
    parts = torch.tensor(rows, dtype=dtype).split([math.prod(shape) for shape in SHAPES], dim=1)
    gradients = [part.view(-1, *shape) for part, shape in zip(parts, SHAPES, strict=True)]
    norms = clipped(kind, gradients, limit).double().norm(dim=1)
    assert torch.isfinite(norms).all()
    assert (norms <= limit).all()


def random_gradients(rng, scale):
    return [scale * torch.randn(5, *shape, generator=rng) for shape in SHAPES]


def flattened(gradients):
    return torch.cat([g.flatten(1) for g in gradients], dim=1)


def test_flat_clipping_leaves_small_gradients_alone_and_shortens_long_ones(rng):
    small, large = random_gradients(rng, 0.01), random_gradients(rng, 100.0)
    torch.testing.assert_close(clipped("flat", small), flattened(small))
    unit = nn.functional.normalize(flattened(large), dim=1)
    torch.testing.assert_close(clipped("flat", large), (1 - MARGIN) * unit, rtol=1e-4, atol=1e-6)


def test_per_layer_clipping_gives_each_layer_its_share(rng):
    rows = clipped("per_layer", random_gradients(rng, 100.0), limit=3.0)
    first, second = rows.split([15, 8], dim=1)
    share = torch.full((5,), 3.0 * (1 - MARGIN) / math.sqrt(2))
    torch.testing.assert_close(first.norm(dim=1), share)
    torch.testing.assert_close(second.norm(dim=1), share)


def test_automatic_clipping_normalises_every_gradient(rng):
    rows = clipped("automatic", random_gradients(rng, 3.0), limit=2.0)
    assert (rows.norm(dim=1) > 1.99).all()
    vanishing = clipped("automatic", random_gradients(rng, 1e-6), limit=2.0)
    assert (vanishing.norm(dim=1) < 0.01).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_one_bad_number_silences_its_record_and_no_other(rng, kind, poison):
    gradients = random_gradients(rng, 1.0)
    without = clipped(kind, gradients)
    gradients[2][3, 1, 1] = poison
    rows = clipped(kind, gradients)
    assert (rows[3] == 0).all()
    kept = [0, 1, 2, 4]
    assert torch.equal(rows[kept], without[kept])


def test_a_gradient_of_zero_stays_zero():
    for kind in KINDS:
        assert (clipped(kind, [torch.zeros(2, *shape) for shape in SHAPES]) == 0).all()


def test_norms_are_not_rounded_to_half_precision(rng):
    gradient = torch.randn(4, 1000, generator=rng).bfloat16()
    norms = gradient_norms([gradient])
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms[0], gradient.float().norm(dim=1))


def test_clipper_knows_the_layers_of_a_model(cnn):
    assert Clipper.of(cnn, "flat", 1.0).layers == (0,) * 10
    assert Clipper.of(cnn, "per_layer", 1.0).layers == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def test_clipper_leaves_out_frozen_layers(cnn):
    cnn[0].requires_grad_(False)
    assert Clipper.of(cnn, "per_layer", 1.0).layers == (0, 0, 1, 1, 2, 2, 3, 3)


@pytest.mark.parametrize("way", ["keep", "gram", "twice"])
@pytest.mark.parametrize("scale", [1e2, 1e5, 1e7])
def test_what_cancels_is_not_measured_too_small(monkeypatch, make_plan_of, way, scale):
    """Large terms of opposite signs: what rounding leaves of them is claimed and added alike."""
    monkeypatch.setattr(costs, "way", lambda **_: way)

    class Alternating(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(16, 32, 1)

        def forward(self, inputs):
            signs = torch.ones(inputs.shape[2])
            signs[1::2] = -1
            return 1e4 * (self.layer(inputs) * signs).sum(2)[:, :3]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Alternating(), scale + 0.01 * torch.randn(6, 16, 10)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def summed(kept):
        fresh = copy.deepcopy(model)
        optimizer = torch.optim.SGD(fresh.parameters(), lr=1.0)
        loss = make_loss(None)
        engine = DPSGDEngine(
            "bookkeeping", fresh, optimizer, make_plan_of(), loss=loss, generator=torch.Generator()
        )
        engine.accumulate(inputs[kept], labels[kept])
        return engine.total().double()

    whole = summed([0, 1, 2, 3, 4, 5])
    for left_out in range(6):
        assert (whole - summed([i for i in range(6) if i != left_out])).norm() <= 1.0
        assert summed([left_out]).norm() <= 1.0
    assert way != "keep" or whole.norm() > 0.9  # else shorter: see norms_of_formed


@pytest.mark.parametrize("size", [10, 2000])
def test_rounding_of_a_large_sum_of_equal_records_stays_below_the_claim(make_plan_of, mlp, size):
    plan = make_plan_of(expected_batch_size=size)
    inputs, labels = torch.full((size, 1, 8, 8), 100.0), torch.zeros(size, dtype=torch.int64)

    def summed(count):
        optimizer = torch.optim.SGD(mlp.parameters(), lr=1.0)
        loss = make_loss(None)
        engine = DPSGDEngine("bookkeeping", mlp, optimizer, plan, loss=loss, generator=torch.Generator())
        for start in range(0, count, 256):
            part = slice(start, min(count, start + 256))
            engine.accumulate(inputs[part], labels[part])
        return engine.total().double()

    change = float((summed(size) - summed(size - 1)).norm())
    assert 0.99 < change <= 1.0
