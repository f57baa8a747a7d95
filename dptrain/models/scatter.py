"""Classifiers on scattering coefficients, normalised record by record."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from dptrain.contracts import ConfigError
from dptrain.models.cnn import SmallCNN
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.scattering import Scattering2d


class ScatterLinear(FrozenFeatures):
    """Scattering coefficients of images (N, C, H, W), normalised, and a linear head: logits (N, num_classes).

    GroupNorm in `groups` groups takes mean and variance from each record by itself, so that the
    normalisation needs no statistics of the others and costs no privacy. Tramèr and Boneh 2021,
    "Differentially private learning needs better features (or much more data)", section 3.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, *, scales: int = 2, angles: int = 8, groups: int = 27
    ) -> None:
        scattering = Scattering2d(shape, scales=scales, angles=angles)
        super().__init__(
            normalised(scattering, groups),
            nn.Sequential(nn.Flatten(), nn.Linear(math.prod(scattering.output_shape), num_classes)),
        )


class ScatterCNN(FrozenFeatures):
    """Scattering coefficients, normalised as in `ScatterLinear`, and a small convolutional head.

    `channels` to `pooled` are those of `SmallCNN`, which sees coefficients in place of pixels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        scales: int = 2,
        angles: int = 8,
        groups: int = 27,
        channels: Sequence[int] = (32,),
        strides: Sequence[int] = (2,),
        kernel_sizes: Sequence[int] = (3,),
        head_groups: int = 0,
        activation: str | Sequence[float] = "tanh",
        pooled: int = 4,
        pools: Sequence[bool] | None = None,
        weight_standardisation: bool = False,
    ) -> None:
        scattering = Scattering2d(shape, scales=scales, angles=angles)
        super().__init__(
            normalised(scattering, groups),
            SmallCNN(
                scattering.output_shape,
                num_classes,
                channels=channels,
                strides=strides,
                kernel_sizes=kernel_sizes,
                groups=head_groups,
                activation=activation,
                pooled=pooled,
                pools=pools,
                weight_standardisation=weight_standardisation,
            ),
        )


def normalised(scattering: Scattering2d, groups: int) -> nn.Sequential:
    """The coefficients after GroupNorm without weights of its own; raises ConfigError."""
    channels = scattering.output_shape[0]
    if channels % groups:
        fitting = [count for count in range(1, channels + 1) if channels % count == 0]
        raise ConfigError(
            f"model.groups={groups} must divide the {channels} scattering channels; choose one of "
            f"{', '.join(map(str, fitting))}"
        )
    return nn.Sequential(scattering, nn.GroupNorm(groups, channels, affine=False))
