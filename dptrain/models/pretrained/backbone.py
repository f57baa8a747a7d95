"""A pre-trained network with a fresh linear head, trained in part or in full."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, DoesNotApply
from dptrain.contracts.batch_norm import batch_norms, frozen_batch_norm, group_norm_instead
from dptrain.contracts.layers import put
from dptrain.models.frozen import FeaturesAndHead, FrozenFeatures
from dptrain.models.pretrained.cut import cut
from dptrain.models.pretrained.inputs import BackboneInputs
from dptrain.models.pretrained.stages import POOLED, Stages, check_stages
from dptrain.models.pretrained.trained import last_block, train_only
from dptrain.models.pretrained.weights import Origin

Trainable = Literal["head", "bias", "norm", "last_block", "all"]
AT_ONCE = 64  # images whose frozen features are made at once: those of more need not fit in memory


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its head, from images (N, 3, H, W) to features (N, width), and its past."""

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    channels_last: bool = False
    origin: Origin | None = None  # of its weights; None: random ones


class FrozenBackbone(FrozenFeatures):
    """Features of a pre-trained network that stay as they are, and a head that is trained on them."""

    own_normalisation = True

    def __init__(self, features: nn.Module, head: nn.Module, origin: Origin | None) -> None:
        super().__init__(features, head)
        self.origin = origin


class TrainedBackbone(FeaturesAndHead):
    """A pre-trained network of which more than a head is trained."""

    own_normalisation = True

    def __init__(self, features: nn.Module, head: nn.Module, origin: Origin | None) -> None:
        super().__init__()
        self.features, self.head, self.origin = features, head, origin


class InParts(nn.Sequential):
    """Layers one after the other, on few images at once where no gradients are wanted."""

    def forward(self, input: Tensor) -> Tensor:
        # A traced graph takes any number of images, as one whole.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or len(input) <= AT_ONCE:
            return super().forward(input)
        return torch.cat([super(InParts, self).forward(some) for some in input.split(AT_ONCE)])


def with_head(
    backbone: Backbone,
    shape: Sequence[int],
    num_classes: int,
    *,
    trainable: Trainable,
    size: int | None,
    features: str | Sequence[str],
    normalise_features: bool,
    width: float,
) -> nn.Module:
    """The backbone with a fresh linear head on its features: images `shape` (C, H, W) to logits.

    Statistics of its BatchNorm are constants where they come with its weights; without weights GroupNorm
    stands there. Dropout and stochastic depth are off. What comes before the first layer that is trained is
    frozen, so that its features need not be made twice, where the network can be cut there. Raises
    ConfigError, and DoesNotApply for another width.
    """
    if width != 1:
        raise DoesNotApply(
            f"model.width={width}: a pre-trained network is as wide as its weights; for several sizes sweep "
            "model.name, or how much is trained by model.trainable"
        )
    names = [features] if isinstance(features, str) else list(features)
    network = without_randomness(_without_batch_norm(backbone)).eval()
    check_stages(network, names)
    plain = names == [POOLED] and not normalise_features
    stages = (
        network
        if plain
        else Stages(network, names, channels_last=backbone.channels_last, normalised=normalise_features)
    )
    inputs = BackboneInputs(size=size, mean=backbone.mean, std=backbone.std)
    blank = torch.zeros(2, *shape)
    with torch.no_grad():
        made = stages(inputs(blank[:1])).shape[1]
    head = nn.Linear(made, num_classes)
    if trainable == "head":
        return FrozenBackbone(InParts(inputs, stages), head, backbone.origin)
    train_only(network, trainable)
    if trainable == "last_block" and plain:
        rng = torch.Generator().manual_seed(0)
        parts = cut(network, last_block(network), inputs(torch.rand(blank.shape, generator=rng)))
        if parts is not None:
            front, rest = parts
            return FrozenBackbone(InParts(inputs, front), nn.Sequential(rest, head), backbone.origin)
    return TrainedBackbone(nn.Sequential(inputs, stages), head, backbone.origin)


def check_images(name: str, shape: Sequence[int] | object) -> tuple[int, int, int]:
    """The shape (C, H, W) of images; raises ConfigError for records that a backbone does not take."""
    if not isinstance(shape, Collection) or isinstance(shape, dict) or len(shape) != 3:
        raise ConfigError(f"model.name={name} takes images, and these records are none; choose another model")
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(
            f"model.name={name} takes images of 1 or 3 channels, not of {channels}; choose another model"
        )
    return channels, height, width


def behead(network: nn.Module) -> str:
    """Take the last linear layer off, which leaves features (N, width); its name."""
    name = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    put(network, name, nn.Identity())
    return name


def without_randomness(network: nn.Module) -> nn.Module:
    """The network, its dropout and stochastic depth switched off: every forward pass says the same."""
    for module in network.modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.dropout._DropoutNd) or kind == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
        elif kind.endswith("DropPath"):
            module.drop_prob = 0.0  # type: ignore[assignment]
    return network


def _without_batch_norm(backbone: Backbone) -> nn.Module:
    network = backbone.network
    instead = group_norm_instead if backbone.origin is None else frozen_batch_norm
    for name, layer in batch_norms(network).items():
        network = put(network, name, instead(name, layer))
    return network
