"""Products of linear layers by oneDNN: the same numbers forward, backward and in the sum."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dptrain.privacy.bookkeeping import products
from dptrain.privacy.dpsgd import DPSGDEngine
from dptrain.tasks.classification import make_loss

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


class Texts(nn.Module):
    """Linear layers at many positions, one of them used twice and one frozen, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(5, 8), nn.Linear(8, 8, bias=False)
        self.frozen = nn.Linear(8, 40).requires_grad_(False)
        self.relu = nn.ReLU(inplace=True)
        self.last, self.head = nn.Linear(40, 40), nn.Linear(40, 2)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.again(torch.tanh(self.again(x)))
        return self.head(torch.tanh(self.last(self.frozen(x))).mean(1))


@pytest.fixture
def counted(monkeypatch):
    """Every product is large enough for oneDNN; the shapes of those that it did."""
    done = []
    product = products._product

    def counting(rows, columns, bias=None):
        done.append((tuple(rows.shape), tuple(columns.shape)))
        return product(rows, columns, bias)

    monkeypatch.setattr(products, "WORTH_IT", 1)
    monkeypatch.setattr(products, "_product", counting)
    return done


def total(kind, model, plan, inputs, labels):
    engine = DPSGDEngine(
        kind,
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        plan,
        loss=lambda logits, at: F.cross_entropy(logits, at, reduction="none"),
        generator=torch.Generator(),
    )
    loss = engine.accumulate(inputs, labels)
    return engine.total(), loss


def test_sums_equal_those_of_opacus_hooks_in_double_precision(counted, make_plan_of):
    torch.manual_seed(0)
    model, inputs = Texts(), torch.randn(12, 7, 5) * torch.linspace(0.3, 3, 12).view(-1, 1, 1)
    labels = torch.arange(12) % 2
    plan = make_plan_of(max_grad_norm=0.5)
    slow = copy.deepcopy(model).double()
    slow.relu.inplace = False  # Opacus' hooks cannot stand it
    expected, loss = total("hooks", slow, plan, inputs.double(), labels)
    found, mine = total("bookkeeping", model, plan, inputs, labels)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(mine.double(), loss, rtol=1e-5, atol=0)
    assert ((12, 7, 5), (8, 5)) in counted  # forward
    assert counted.count(((12, 7, 40), (40, 40))) == 2  # forward, and the gradient of the layer's inputs


@pytest.mark.parametrize("lie", [lambda x: x, lambda x: x.repeat(1, 2)[:, ::2], lambda x: x.T.clone().T])
@pytest.mark.parametrize("rows", [0, 1, 50])
@pytest.mark.parametrize(("fan_in", "outputs"), [(3, 40), (40, 3), (40, 50), (1, 1)])
@pytest.mark.parametrize("cached", [1, 100, products.CACHED])
def test_the_gradient_of_a_weight(monkeypatch, cached, rows, fan_in, outputs, lie):
    inputs, grads = lie(torch.randn(rows, fan_in)), lie(torch.randn(rows, outputs))
    expected = grads.double().T @ inputs.double()
    monkeypatch.setattr(products, "CACHED", cached)
    torch.testing.assert_close(products.summed_products(grads, inputs), expected)


def test_records_of_one_and_the_same_input():
    inputs, grads = torch.randn(40).expand(50, -1), torch.randn(50, 3)
    expected = grads.double().T @ inputs.double()
    torch.testing.assert_close(products.summed_products(grads, inputs), expected)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    "after", [lambda y: y.mean(1), lambda y: y[:, 2:5].flatten(1), lambda y: y.mT.sum(2)]
)
def test_gradients_that_lie_in_memory_as_they_may(make_plan_of, after):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 3), nn.Linear(3, 2)

        def forward(self, x):
            return after(self.second(self.first(x)[:, ::2]))

    torch.manual_seed(0)
    model, inputs, labels = Net(), torch.randn(6, 10, 5), torch.arange(6) % 2
    plan = make_plan_of(max_grad_norm=0.1)
    expected, _ = total("hooks", copy.deepcopy(model).double(), plan, inputs.double(), labels)
    found, _ = total("bookkeeping", model, plan, inputs, labels)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("counted")
def test_layers_are_left_as_they_were_even_if_a_pass_fails(make_plan_of):
    model, plan, labels = Texts(), make_plan_of(), torch.zeros(2, dtype=torch.int64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = DPSGDEngine(
        "bookkeeping", model, optimizer, plan, loss=make_loss(None), generator=torch.Generator()
    )
    engine.accumulate(torch.randn(2, 7, 5), labels)
    with pytest.raises(RuntimeError, match="shape"):
        engine.accumulate(torch.randn(2, 7, 6), labels)
    assert all("forward" not in vars(layer) for layer in model.modules())


def test_small_products_and_double_precision_stay_with_pytorch(counted, monkeypatch, make_plan_of):
    labels = torch.zeros(2, dtype=torch.int64)
    total("bookkeeping", Texts().double(), make_plan_of(), torch.randn(2, 7, 5).double(), labels)
    assert not counted
    monkeypatch.setattr(products, "WORTH_IT", 2**27)
    total("bookkeeping", Texts(), make_plan_of(), torch.randn(2, 7, 5), labels)
    assert not counted
