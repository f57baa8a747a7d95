"""Models for tables: a multilayer perceptron, and logistic regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from dptrain.contracts import DoesNotApply
from dptrain.contracts.ranges import Count, NotNegative, Positive, Rate, Whole
from dptrain.models.activations import make_activation
from dptrain.models.bottleneck import before_the_head
from dptrain.models.frozen import FeaturesAndHead
from dptrain.models.width import widened


class Mlp(FeaturesAndHead):
    """Linear and activation, `depth` times for each of `widths`, times `width`; then a linear head.

    Takes inputs (N, ...) of any shape, flattened, and returns logits (N, num_classes). Bounded
    activations keep per-sample gradients small (Papernot et al. 2021, "Tempered Sigmoid Activations").
    `dropout` and a `bottleneck` of so many numbers may stand before the head (`before_the_head`).
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[Count] = (32,),
        width: Positive = 1,
        depth: Count = 1,
        activation: str | Sequence[float] = "tanh",
        dropout: Rate = 0.0,
        bottleneck: Whole = 0,
        bottleneck_weight: NotNegative = 0.001,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(shape)
        for out in (widened(each, width) for each in widths for _ in range(depth)):
            layers += [nn.Linear(units, out), make_activation(activation)]
            units = out
        last, units = before_the_head(
            units, dropout=dropout, bottleneck=bottleneck, bottleneck_weight=bottleneck_weight
        )
        self.features = nn.Sequential(*layers, *last)
        self.head = nn.Linear(units, num_classes)


class Logistic(Mlp):
    """Multinomial logistic regression: a perceptron without hidden layers, which has a width of 1 alone."""

    def __init__(self, shape: Sequence[int], num_classes: int, *, width: Positive = 1) -> None:
        if width != 1:
            raise DoesNotApply(
                f"model.width={width}: logistic regression has no layer that could be wider; take model=mlp"
            )
        super().__init__(shape, num_classes, widths=())
