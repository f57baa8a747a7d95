"""Small convolutional networks that train well under DP-SGD."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class SmallCNN(nn.Module):
    """Convolution, GroupNorm, activation, once for each entry of `channels`; then a linear head.

    A block of stride 2 halves the image as it convolves (cheap); one of stride 1 by max-pooling.

    Bounded activations keep per-sample gradients small (Papernot et al. 2021, "Tempered
    Sigmoid Activations"), and GroupNorm normalises each record by itself. Takes inputs
    (N, C, H, W) and returns logits (N, num_classes).
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        channels: Sequence[int] = (16, 32),
        strides: Sequence[int] = (2, 1),
        kernel_sizes: Sequence[int] = (5, 3),
        groups: int = 4,
        activation: str = "tanh",
        pooled: int = 4,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = shape[0]
        for out, stride, kernel in zip(channels, strides, kernel_sizes, strict=True):
            layers += [
                nn.Conv2d(width, out, kernel, stride=stride, padding=kernel // 2),
                nn.GroupNorm(groups, out),
                ACTIVATIONS[activation](),
            ]
            if stride == 1:
                layers.append(nn.MaxPool2d(2))
            width = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(pooled), nn.Flatten())
        self.head = nn.Linear(width * pooled * pooled, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits
