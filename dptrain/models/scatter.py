"""Classifiers on scattering coefficients, normalised record by record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dptrain.contracts import ConfigError
from dptrain.contracts.ranges import Count, Positive, Whole
from dptrain.models.cnn import SmallCNN
from dptrain.models.frozen import FrozenFeatures
from dptrain.models.patches import Patches
from dptrain.models.photographs import photographs
from dptrain.models.scattering import Scattering2d
from dptrain.models.synthetic import synthetic_images
from dptrain.models.whitening import Mirrored, SideBySide, Whitening
from dptrain.models.width import widened

IMAGES = {"shapes": synthetic_images, "photographs": photographs}  # of which components and patches are found


class ScatterLinear(FrozenFeatures):
    """Scattering coefficients of images (N, C, H, W), normalised, and a linear head: logits (N, num_classes).

    GroupNorm in `groups` groups takes mean and variance from each record by itself, so that the
    normalisation needs no statistics of the others and costs no privacy (Tramèr and Boneh 2021,
    "Differentially private learning needs better features (or much more data)", section 3). With
    `patches` the likeness to so many small patches stands beside the coefficients (`Patches`), and
    `mirrored` takes the mean over an image and its mirror image. With `components` the head sees so
    many principal components of all these, made less unequal by `power`. Patches and components are
    those of synthetic images, which show nothing: shapes and strokes, or `drawn` "photographs".

    `width` multiplies what the head sees: the components, at most as many as there are coefficients; where
    there are none, the directions of the wavelets, whose groups are then the nearest number that divides.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        scales: Count = 2,
        angles: Count = 8,
        groups: Count = 27,
        patches: Whole = 0,
        mirrored: bool = False,
        components: Count | None = None,
        power: float = 0.7,
        drawn: str = "shapes",
        width: Positive = 1,
    ) -> None:
        if drawn not in IMAGES:
            raise ConfigError(f"model.drawn={drawn} is not known; choose one of {', '.join(IMAGES)}")
        draw = IMAGES[drawn]
        if components is None and width != 1:
            angles = widened(angles, width)
            channels = Scattering2d(shape, scales=scales, angles=angles).output_shape[0]
            groups = nearest_divisor(channels, groups)
        features = normalised(Scattering2d(shape, scales=scales, angles=angles), groups)
        if patches:
            images = draw(2000, shape)
            kinds = [features, Patches.of(images, kernels=patches)]
            features = nn.Sequential(SideBySide.of(kinds, images[:256]))
        if mirrored:
            features = nn.Sequential(Mirrored(features))
        seen = features(torch.zeros(1, *shape)).numel()
        if components is not None:
            if components > seen:
                raise ConfigError(
                    f"model.components={components} must be between 1 and the {seen} coefficients; "
                    "lower it, or set it to null"
                )
            components = min(widened(components, width), seen)
            images = draw(2 * components, shape)
            features.append(Whitening.of(features, images, components=components, power=power))
            seen = components
        super().__init__(features, nn.Sequential(nn.Flatten(), nn.Linear(seen, num_classes)))


class ScatterCNN(FrozenFeatures):
    """Scattering coefficients, normalised as in `ScatterLinear`, and a small convolutional head.

    `channels`, `strides`, `kernel_sizes` and `others`, such as `width`, are those of `SmallCNN`, which sees
    coefficients in place of pixels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        scales: Count = 2,
        angles: Count = 8,
        groups: Count = 27,
        channels: Sequence[Count] = (32,),
        strides: Sequence[Count] = (2,),
        kernel_sizes: Sequence[Count] = (3,),
        head_groups: Whole = 0,
        **others: Any,
    ) -> None:
        scattering = Scattering2d(shape, scales=scales, angles=angles)
        others |= {"channels": channels, "strides": strides, "kernel_sizes": kernel_sizes}
        head = SmallCNN(scattering.output_shape, num_classes, groups=head_groups, **others)
        super().__init__(normalised(scattering, groups), head)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of a number that is nearest to the one that is wanted.

    >>> nearest_divisor(81, 27), nearest_divisor(25, 27), nearest_divisor(289, 27)
    (27, 25, 17)
    """
    return min((each for each in range(1, number + 1) if number % each == 0), key=lambda n: abs(n - wanted))


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
