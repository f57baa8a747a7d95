"""Whitening: components of synthetic images, never of records."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dptrain.assembly.build import build
from dptrain.contracts import ConfigError
from dptrain.models.scatter import ScatterLinear
from dptrain.models.synthetic import synthetic_images
from dptrain.models.whitening import Whitening

pytestmark = pytest.mark.run

SHAPE = (1, 12, 12)


@pytest.fixture(scope="module")
def images():
    return synthetic_images(80, SHAPE)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_components_are_uncorrelated_and_of_mean_square_one(images, power):
    seen = Whitening.of(nn.Flatten(), images, components=20, power=power)(images)
    covariance = seen.T @ seen / len(images)
    assert covariance.diagonal().mean() == pytest.approx(1, abs=1e-4)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-4


def test_more_power_makes_variances_less_unequal(images):
    def spread(power):
        variance = Whitening.of(nn.Flatten(), images, components=20, power=power)(images).var(0)
        return float(variance.max() / variance.min())

    assert spread(0.0) > spread(0.5) > spread(1.0) >= 1
    assert spread(1.0) < 1.5


def test_components_are_those_of_scikit_learn(images):
    from sklearn.decomposition import PCA

    ours = Whitening.of(nn.Flatten(), images, components=5, power=0.0)(images)
    theirs = torch.from_numpy(PCA(5, svd_solver="full").fit_transform(images.flatten(1).numpy()))
    ours, theirs = (each / each.norm() for each in (ours, theirs))
    assert torch.allclose(ours.abs(), theirs.abs(), atol=1e-4)  # directions have no sign


def test_synthetic_images_are_the_same_each_time_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    assert torch.equal(synthetic_images(6, SHAPE), synthetic_images(6, SHAPE))
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_about_standardised():
    images = synthetic_images(400, (3, 16, 16))
    assert abs(float(images.mean())) < 0.1
    assert float(images.std()) == pytest.approx(1, abs=0.15)


def test_the_head_alone_is_trained_and_the_projection_is_part_of_the_weights():
    model = ScatterLinear(SHAPE, 3, components=10)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"head.1.weight", "head.1.bias"}
    assert any(name.endswith("projection") for name in model.state_dict())
    inputs = torch.rand(2, *SHAPE, requires_grad=True)
    model(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("components", "said"), [(0, "should be greater than or equal to 1"), (10**6, "must be between 1 and")]
)
def test_as_many_components_as_there_can_be(components, said):
    node = {"_target_": "dptrain.models.scatter.ScatterLinear", "components": components}
    with pytest.raises(ConfigError, match=f"model.components={components} {said}"):
        build("model", node, shape=SHAPE, num_classes=3)
