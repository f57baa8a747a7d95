"""The bottleneck is charged its divergence, record by record, by every engine, and its code is its mean."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from dptrain.contracts import Budget, ConfigError
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.models.bottleneck import Bottleneck, divergence
from dptrain.models.cnn import SmallCNN
from dptrain.models.mlp import Mlp
from dptrain.models.pretrained.cnn import PretrainedCNN
from dptrain.privacy.dpsgd import ENGINES
from dptrain.privacy.gradients import InFull, OneByOne

pytestmark = pytest.mark.run


def _mlp(**changes) -> Mlp:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Mlp((1, 8, 8), 3, widths=[12], **changes)


def test_the_divergence_is_torch_s(rng) -> None:
    mean, deviation = torch.randn(4, 5, generator=rng), torch.rand(4, 5, generator=rng) + 0.1
    theirs = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, deviation), theirs)


def test_its_gradient_is_that_of_the_loss_and_the_weighted_divergence(splits) -> None:
    model = _mlp(bottleneck=4, bottleneck_weight=0.3).train()
    inputs, labels = splits.train.inputs[:6], splits.train.labels[:6]

    def gradients(*, by_hand: bool) -> list[torch.Tensor]:
        net = copy.deepcopy(model)
        layer = net.features[-1]
        assert isinstance(layer, Bottleneck)
        torch.manual_seed(0)
        if by_hand:
            mean, deviation = layer.code(net.features[:-1](inputs))
            logits = net.head(mean + deviation * torch.randn_like(mean))
            normal = Normal(mean, deviation)
            charged = 0.3 * kl_divergence(normal, Normal(0.0, 1.0)).sum()
        else:
            logits, charged = net(inputs), 0.0
        (F.cross_entropy(logits, labels, reduction="sum") + charged).backward()
        return [each.grad for each in net.parameters()]

    with torch.random.fork_rng():
        for ours, theirs in zip(gradients(by_hand=False), gradients(by_hand=True), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_in_evaluation_the_code_is_its_mean_and_an_attacker_s_draws_cost_nothing() -> None:
    layer = Bottleneck(4, 3, weight=100.0).requires_grad_(False)
    features = torch.rand(5, 4, requires_grad=True)
    assert torch.equal(layer.eval()(features), layer.code(features)[0])
    torch.manual_seed(0)
    drawn = layer.train()(features)
    (found,) = torch.autograd.grad(drawn.sum(), features)
    torch.manual_seed(0)
    mean, deviation = layer.code(features)
    (free,) = torch.autograd.grad((mean + deviation * torch.randn_like(mean)).sum(), features)
    torch.testing.assert_close(found, free)


def test_gradients_of_records_have_it_whichever_way_they_are_computed(splits, monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # one draw for every record
    inputs, labels = splits.train.inputs[:4], splits.train.labels[:4]
    found = []
    for way in (OneByOne, InFull):
        loss = partial(F.cross_entropy, reduction="none")
        model = _mlp(bottleneck=4, bottleneck_weight=0.3).train()
        _, shares = way(model, loss)(inputs, labels, 1)
        found.append(torch.cat([each.rows().flatten(1) for each in shares], 1))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("engine", ENGINES)
def test_dpsgd_trains_it_and_dropout(splits, settings_of, context_of, engine) -> None:
    budget = Budget(epsilon=8.0, delta=1e-3)
    mechanism = DPSGD(settings=settings_of(rates={"steps": 3}), engine=engine)
    model = _mlp(dropout=0.5, bottleneck=4)
    release, guarantee = mechanism.fit(model, splits, budget, context_of())
    assert guarantee.epsilon() <= 8.0
    assert release.build()(splits.test.inputs).shape == (20, 3)


def test_left_out_nothing_of_a_model_changes() -> None:
    assert [*_mlp().state_dict()] == ["features.1.weight", "features.1.bias", "head.weight", "head.bias"]
    made = SmallCNN((1, 12, 12), 3, channels=[4], strides=[2], kernel_sizes=[3], dropout=0.2, bottleneck=5)
    kinds = [type(each) for each in made.features[-3:]]
    assert kinds == [nn.Flatten, nn.Dropout, Bottleneck]
    assert made.head.in_features == 5


def test_pretrained_layers_are_those_of_the_file_and_stay(tmp_path) -> None:
    small = {"channels": [4], "strides": [2], "kernel_sizes": [3]}
    made = SmallCNN((1, 28, 28), 10, **small)
    torch.save({f"network.{name}": each for name, each in made.state_dict().items()}, tmp_path / "w.pt")
    model = PretrainedCNN((1, 12, 12), 3, weights=str(tmp_path / "w.pt"), trained_on="MNIST", **small)
    assert torch.equal(model.features[0].weight, made.features[0].weight)
    assert [name for name, each in model.named_parameters() if each.requires_grad] == [
        "head.weight", "head.bias",
    ]  # fmt: skip
    assert "pre-trained on MNIST" in str(model.origin)
    with pytest.raises(ConfigError, match="does not fit"):
        PretrainedCNN((1, 12, 12), 3, weights=str(tmp_path / "w.pt"), **{**small, "channels": [8]})
