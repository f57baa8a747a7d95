"""Heads on frozen features, and the options of their layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dptrain.contracts import ConfigError
from dptrain.models.activations import TemperedSigmoid, make_activation
from dptrain.models.cnn import SmallCNN
from dptrain.models.frozen import FrozenFeatures, split
from dptrain.models.normalise import Normalise
from dptrain.models.scatter import ScatterCNN, ScatterLinear
from dptrain.models.standardised import StandardisedConv2d
from dptrain.models.wide_resnet import WideResNet
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.clipping import MARGIN, MARGIN_A_RECORD
from dptrain.privacy.dpsgd import ENGINES, DPSGDEngine

pytestmark = pytest.mark.run

SHAPE = (1, 16, 16)


def model(kind: type[FrozenFeatures] = ScatterLinear) -> nn.Sequential:
    return nn.Sequential(Normalise((0.5,), (0.25,)), kind(SHAPE, 3))


@pytest.mark.parametrize("kind", [ScatterLinear, ScatterCNN])
def test_the_frozen_part_and_the_head_make_up_the_model(kind, rng) -> None:
    whole = model(kind)
    parts = split(whole)
    assert parts is not None
    features, head = parts
    inputs = torch.rand(4, *SHAPE, generator=rng)
    assert torch.equal(head(features(inputs)), whole(inputs))
    assert not list(features.parameters())
    assert [*head.parameters()] == [*whole.parameters()]


def test_a_model_without_a_frozen_part_is_not_split() -> None:
    assert split(nn.Sequential(Normalise((0.5,), (0.25,)), nn.Linear(3, 2))) is None
    assert split(nn.Sequential(nn.Dropout(), ScatterLinear(SHAPE, 3))) is None


def test_frozen_features_stay_frozen_and_in_evaluation_mode() -> None:
    backbone = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    frozen = FrozenFeatures(backbone, nn.Linear(4, 2)).train()
    assert frozen.training
    assert frozen.head.training
    assert not backbone.training
    inputs = torch.ones(3, 4)
    assert torch.equal(frozen(inputs), frozen(inputs))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("kind", [ScatterLinear, ScatterCNN])
def test_features_are_normalised_record_by_record_and_reach_the_image(kind, rng) -> None:
    whole = model(kind)
    inputs = torch.rand(3, *SHAPE, generator=rng, requires_grad=True)
    features = whole[1].features(inputs).unflatten(1, (27, 3)).flatten(2)
    torch.testing.assert_close(features.mean(2), torch.zeros(3, 27), atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(whole(inputs)[0, 0], inputs)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_groups_that_do_not_divide_the_channels_are_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"model\.groups=10 must divide the 81 .* one of 1, 3, 9, 27, 81"):
        ScatterLinear(SHAPE, 3, groups=10)


def test_tempered_sigmoids_are_bounded_by_scale_and_offset() -> None:
    activation = make_activation([1.58, 3, 0.71])
    assert isinstance(activation, TemperedSigmoid)
    values = activation(torch.tensor([-100.0, 0.0, 100.0]))
    torch.testing.assert_close(values, torch.tensor([-0.71, 0.08, 0.87]))
    slope = torch.autograd.functional.jacobian(activation, torch.zeros(1))
    assert slope.item() == pytest.approx(1.58 * 3 / 4)


@pytest.mark.parametrize("chosen", ["sigmoid", [1.0, 2.0], ["a", "b", "c"]])
def test_an_unknown_activation_is_refused_with_the_cure(chosen) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.activation=.* choose one of tanh, .* such as \[1\.58,3,0\.71\]"
    ):
        make_activation(chosen)


def test_kernels_are_standardised_whatever_the_weights() -> None:
    layer = StandardisedConv2d(3, 5, 3)
    with torch.no_grad():
        layer.weight.mul_(7).add_(2)
        layer.gain[2] = 3.0
    kernels = layer.kernels()
    torch.testing.assert_close(kernels.mean((1, 2, 3)), torch.zeros(5), atol=1e-6, rtol=0)
    norms = kernels.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0]))
    layer.reset_parameters()
    assert (layer.gain == 1).all()


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "standardised": SmallCNN(
            (2, 8, 8), 3, channels=(4, 4), groups=2, pooled=2, weight_standardisation=True
        ),
        "tempered": SmallCNN((2, 8, 8), 3, channels=(4, 4), groups=0, pooled=2, activation=[1.58, 3, 0.71]),
        "wide_resnet": WideResNet((2, 8, 8), 3, depth=10, width=1),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["standardised", "tempered", "wide_resnet"])
def test_every_engine_sums_the_clipped_gradients_of_single_records(name, engine, rng) -> None:
    network = networks()[name]
    inputs = torch.randn(5, 2, 8, 8, generator=rng)
    labels = torch.randint(3, (5,), generator=rng)
    parameters = list(network.parameters())
    total = torch.zeros(sum(parameter.numel() for parameter in parameters))
    limit = 0.5 * (1 - MARGIN - 5 * MARGIN_A_RECORD)
    for one in range(5):
        loss = cross_entropy(network(inputs[one : one + 1]), labels[one : one + 1])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        total += gradient * (limit / (gradient.norm() + 1e-6)).clamp(max=1.0)
    plan = DPSGDPlan(
        units=10, sample_rate=0.5, steps=1, expected_batch_size=5, max_grad_norm=0.5, noise_multiplier=1.0
    )
    made = DPSGDEngine(
        engine,
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        plan,
        loss=lambda logits, targets: cross_entropy(logits, targets, reduction="none"),
        generator=rng,
    )
    made.accumulate(inputs, labels)
    torch.testing.assert_close(made.total(), total, atol=2e-5, rtol=1e-4)


def test_a_wide_resnet_is_as_deep_and_wide_as_its_name_says() -> None:
    network = WideResNet((3, 32, 32), 10)
    convolutions = [m for m in network.modules() if isinstance(m, StandardisedConv2d)]
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions) + 1 + 3 == 16 + 1  # 3 more project
    assert max(layer.out_channels for layer in convolutions) == 256
    assert 2.7e6 < sum(parameter.numel() for parameter in network.parameters()) < 2.8e6
    plain = WideResNet((3, 32, 32), 10, weight_standardisation=False, activation="tanh")
    assert not any(isinstance(m, StandardisedConv2d | nn.ReLU) for m in plain.modules())


def test_a_depth_that_cannot_be_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"model\.depth=18 must be 4 more than a multiple of 6"):
        WideResNet((3, 32, 32), 10, depth=18)
