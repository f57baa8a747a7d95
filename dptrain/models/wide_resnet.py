"""Wide residual networks that train under DP-SGD: GroupNorm in place of BatchNorm, kernels standardised."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dptrain.contracts import ConfigError
from dptrain.contracts.ranges import Count, Positive
from dptrain.models.activations import make_activation
from dptrain.models.frozen import FeaturesAndHead
from dptrain.models.standardised import StandardisedConv2d
from dptrain.models.width import widened


class WideResNet(FeaturesAndHead):
    """WRN-`depth`-`width`: three stages of residual blocks, 16, 32 and 64 times `width` wide, then a mean.

    What is no multiple of `groups` becomes the nearest.
    Takes images (N, C, H, W) and returns logits (N, num_classes). Zagoruyko and Komodakis 2016, "Wide
    residual networks", with the changes of De et al. 2022, "Unlocking high-accuracy differentially private
    image classification through scale", as in their code: GroupNorm of `groups` groups after each activation,
    which normalises each record by itself, and, with `weight_standardisation`, standardised kernels. Raises
    ConfigError for a depth that is not 4 more than a multiple of 6.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        depth: int = 16,
        width: Positive = 4,
        groups: Count = 16,
        activation: str | Sequence[float] = "relu",
        weight_standardisation: bool = True,
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ConfigError(
                f"model.depth={depth} must be 4 more than a multiple of 6, such as 10, 16, 28 or 40"
            )
        convolution = StandardisedConv2d if weight_standardisation else nn.Conv2d
        layers: list[nn.Module] = [convolution(shape[0], 16, 3, padding=1)]
        channels = 16
        for stage, base in enumerate((16, 32, 64)):
            wide = widened(base, width, multiple=groups)
            for number in range((depth - 4) // 6):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(
                    Block(
                        channels,
                        wide,
                        stride=stride,
                        groups=groups,
                        activation=activation,
                        convolution=convolution,
                    )
                )
                channels = wide
        self.features = nn.Sequential(
            *layers,
            make_activation(activation),
            nn.GroupNorm(groups, channels),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(channels, num_classes)


class Block(nn.Module):
    """Activation, normalisation, convolution, twice, added to the input (N, channels, H, W): (N, wide, h, w).

    The first block of a stage projects its input, after an activation and a normalisation of its own.
    """

    def __init__(
        self,
        channels: int,
        wide: int,
        *,
        stride: int,
        groups: int,
        activation: str | Sequence[float],
        convolution: type[nn.Conv2d],
    ) -> None:
        super().__init__()

        def layer(inputs: int, kernel: int, step: int) -> list[nn.Module]:
            return [
                make_activation(activation),
                nn.GroupNorm(groups, inputs),
                convolution(inputs, wide, kernel, stride=step, padding=kernel // 2),
            ]

        self.residual = nn.Sequential(*layer(channels, 3, stride), *layer(wide, 3, 1))
        changes = stride > 1 or channels != wide
        self.shortcut = nn.Sequential(*layer(channels, 1, stride)) if changes else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        added: Tensor = self.residual(inputs) + self.shortcut(inputs)
        return added
