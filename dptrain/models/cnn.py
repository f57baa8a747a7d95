"""Small convolutional networks that train well under DP-SGD."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dptrain.contracts.ranges import Count, NotNegative, Positive, Rate, Whole
from dptrain.models.activations import make_activation, never_falls
from dptrain.models.bottleneck import before_the_head
from dptrain.models.frozen import FeaturesAndHead
from dptrain.models.standardised import StandardisedConv2d
from dptrain.models.width import widened


class SmallCNN(FeaturesAndHead):
    """Convolution, GroupNorm, activation, `depth` times for each of `channels`; then a linear head.

    `width` multiplies the channels, to the nearest multiple of `groups`. Further convolutions of an entry
    keep size and kernel, and pooling comes after the last.
    A block of stride 2 halves the image as it convolves (cheap); one of stride 1 by max-pooling, unless
    `pools` says, block by block, which of them pool.
    `groups` 0 leaves the normalisation out; `activation` is as `make_activation` takes it; `dropout` and a
    `bottleneck` of so many numbers may stand before the head (`before_the_head`).

    Bounded activations keep per-sample gradients small (Papernot et al. 2021, "Tempered
    Sigmoid Activations"), and GroupNorm normalises each record by itself. Takes inputs
    (N, C, H, W) and returns logits (N, num_classes).
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        channels: Sequence[Count] = (16, 32),
        width: Positive = 1,
        depth: Count = 1,
        strides: Sequence[Count] = (2, 1),
        kernel_sizes: Sequence[Count] = (5, 3),
        groups: Whole = 4,
        activation: str | Sequence[float] = "tanh",
        pooled: Count = 4,
        pools: Sequence[bool] | None = None,
        weight_standardisation: bool = False,
        dropout: Rate = 0.0,
        bottleneck: Whole = 0,
        bottleneck_weight: NotNegative = 0.001,
    ) -> None:
        super().__init__()
        convolution = StandardisedConv2d if weight_standardisation else nn.Conv2d
        layers: list[nn.Module] = []
        inputs = shape[0]
        pools = [stride == 1 for stride in strides] if pools is None else pools
        for entry, stride, kernel, pool in zip(channels, strides, kernel_sizes, pools, strict=True):
            out = widened(entry, width, multiple=max(1, groups))
            for number in range(depth):
                step = stride if number == 0 else 1
                layers.append(convolution(inputs, out, kernel, stride=step, padding=kernel // 2))
                if groups > 0:
                    layers.append(nn.GroupNorm(groups, out))
                last: list[nn.Module] = [make_activation(activation)]
                if pool and number == depth - 1:
                    last.append(nn.MaxPool2d(2))
                if never_falls(last[0]):
                    last.reverse()  # the same outputs, and the activation has a quarter of the work
                layers += last
                inputs = out
        last, units = before_the_head(
            inputs * pooled * pooled,
            dropout=dropout,
            bottleneck=bottleneck,
            bottleneck_weight=bottleneck_weight,
        )
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), *last)
        self.head = nn.Linear(units, num_classes)
