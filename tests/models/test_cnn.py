"""The small convolutional network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dptrain.models.activations import make_activation
from dptrain.models.cnn import SmallCNN


def textbook(model: SmallCNN, activation) -> nn.Sequential:
    """The same layers, each pooling after its activation."""
    layers = []
    for layer in (*model.features, model.head):
        if isinstance(layer, type(make_activation(activation))):
            continue
        layers.append(layer)
        if isinstance(layer, nn.GroupNorm):
            layers.append(make_activation(activation))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "silu", [1.58, 3, 0.71], [1.58, -3, 0.71]])
def test_pooling_before_an_activation_that_never_falls_changes_nothing(activation):
    torch.manual_seed(0)
    model = SmallCNN((2, 12, 12), 3, channels=(8, 8), strides=(1, 1), activation=activation)
    model.eval()
    inputs = torch.randn(5, 2, 12, 12)
    found, expected = model(inputs), textbook(model, activation)(inputs)
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_never_falls_is_pooled_first_and_nothing_else():
    def order(activation):
        layers = [type(layer) for layer in SmallCNN((1, 28, 28), 2, activation=activation).features]
        return layers.index(nn.MaxPool2d) < len(layers) - 1 - layers[::-1].index(
            type(make_activation(activation))
        )

    assert order("tanh")
    assert order([1.58, 3, 0.71])
    assert not order("gelu")
