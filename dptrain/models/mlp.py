"""Models for tables: a multilayer perceptron, and logistic regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from dptrain.contracts.ranges import Count
from dptrain.models.activations import make_activation
from dptrain.models.frozen import FeaturesAndHead


class Mlp(FeaturesAndHead):
    """Linear and activation, once for each of `widths`; then a linear head.

    Takes inputs (N, ...) of any shape, flattened, and returns logits (N, num_classes). Bounded
    activations keep per-sample gradients small (Papernot et al. 2021, "Tempered Sigmoid Activations").
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[Count] = (32,),
        activation: str | Sequence[float] = "tanh",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for out in widths:
            layers += [nn.Linear(width, out), make_activation(activation)]
            width = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)


class Logistic(Mlp):
    """Multinomial logistic regression: a perceptron without hidden layers."""

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__(shape, num_classes, widths=())
