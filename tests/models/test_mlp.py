"""Models for tables take rows and images, and mix no records."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dptrain.models.mlp import Logistic, Mlp
from dptrain.models.normalise import Normalise


@pytest.mark.parametrize("make", [Mlp, Logistic])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_rows_and_images_become_logits_each_by_itself(make: type[Mlp], shape: tuple[int, ...], rng) -> None:
    model = make(shape, 3)
    inputs = torch.rand(5, *shape, generator=rng)
    logits = model(inputs)
    assert logits.shape == (5, 3)
    assert torch.allclose(model(inputs[2:3])[0], logits[2], atol=1e-6)


def test_widths_and_activation_are_as_told() -> None:
    model = Mlp((6,), 2, widths=(8, 4), activation="gelu")
    assert [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)] == [
        (8, 6),
        (4, 8),
        (2, 4),
    ]
    assert sum(isinstance(layer, nn.GELU) for layer in model.modules()) == 2


def test_logistic_regression_is_linear(rng) -> None:
    model = Logistic((6,), 2)
    first, second = torch.rand(2, 1, 6, generator=rng)
    assert torch.allclose(model((first + second) / 2), (model(first) + model(second)) / 2, atol=1e-6)
    assert sum(parameter.numel() for parameter in model.parameters()) == 6 * 2 + 2


def test_normalisation_is_one_constant_a_column() -> None:
    normalise = Normalise(mean=(0.5, 0.25), std=(0.25, 0.5))
    assert normalise(torch.tensor([[1.0, 1.25]])).tolist() == [[2.0, 2.0]]
