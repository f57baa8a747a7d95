"""Layers that a model and the engines that train it must know by name."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from dptrain.contracts.errors import ConfigError

MOST_GROUPS = 32  # as GroupNorm's authors chose
# Channels a group at least: a vector has no positions beside them, an image may have come down to one.
FEWEST_OF_VECTOR, FEWEST_OF_IMAGE = 16, 8


class MadeKernels(nn.Conv2d, ABC):
    """A convolution with kernels that are made of its parameters each time, such as standardised ones.

    Engines rely on the forward pass being this one: a convolution with `kernels()`, and the bias, which
    plays no part in the kernels.
    """

    @abstractmethod
    def kernels(self) -> Tensor:
        """The kernels (out, in / groups, height, width), a differentiable function of parameters alone."""

    @property
    def as_promised(self) -> bool:
        """Whether no subclass has replaced the forward pass that engines rely on."""
        mine, promised = type(self), MadeKernels
        return mine.forward is promised.forward and mine._conv_forward is promised._conv_forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self._conv_forward(inputs, self.kernels(), self.bias)


class FrozenBatchNorm(nn.Module):
    """The affine map that a BatchNorm is in evaluation, in training too: its statistics are constants.

    Parameters and buffers have the names that BatchNorm's have. Scale and shift are constants too, until
    they are made to require gradients.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.eps = layer.eps
        for name, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            kept = value.detach().clone()
            if name in ("weight", "bias"):
                self.register_parameter(name, nn.Parameter(kept, requires_grad=False))
            else:
                self.register_buffer(name, kept)

    def forward(self, inputs: Tensor) -> Tensor:
        weight, bias = getattr(self, "weight", None), getattr(self, "bias", None)
        return F.batch_norm(
            inputs, self.running_mean, self.running_var, weight, bias, training=False, eps=self.eps
        )


class GroupNormOfEnough(nn.GroupNorm):
    """GroupNorm that leaves inputs of fewer than 8 values a group as they are, times scale, plus shift.

    Normalised, one value is always zero, and two are one and minus one.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs[0].numel() >= FEWEST_OF_IMAGE * self.num_groups:
            return super().forward(inputs)
        shape = (1, -1) + (1,) * (inputs.dim() - 2)
        return inputs * self.weight.view(shape) + self.bias.view(shape) if self.affine else inputs


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers of a model, by name, that normalise each record by the others of its batch."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


def frozen_batch_norm(name: str, layer: _BatchNorm) -> nn.Module:
    """What stands for a BatchNorm with its statistics as constants; raises ConfigError where it has none."""
    if layer.running_mean is None:
        raise ConfigError(
            f"mechanism.freeze_batch_norm=true: `{name}` keeps no running statistics that could be applied "
            "as constants; use mechanism.replace_batch_norm=true"
        )
    return _with_what_follows(name, layer, FrozenBatchNorm(layer))


def group_norm_instead(name: str, layer: _BatchNorm) -> nn.Module:
    """A fresh GroupNorm that stands for a BatchNorm; raises ConfigError."""
    few = isinstance(layer, nn.BatchNorm1d) and layer.num_features < FEWEST_OF_IMAGE
    kind = GroupNormOfEnough if few else nn.GroupNorm
    where = next(layer.parameters(), torch.zeros(())).device
    return _with_what_follows(
        name, layer, kind(norm_groups(layer), layer.num_features, affine=layer.affine, device=where)
    )


def norm_groups(layer: _BatchNorm) -> int:
    """As many groups as leave each enough values that normalising erases none of what they say."""
    fewest = FEWEST_OF_VECTOR if isinstance(layer, nn.BatchNorm1d) else FEWEST_OF_IMAGE
    channels = layer.num_features
    most = min(MOST_GROUPS, channels // fewest)
    return max((groups for groups in range(1, most + 1) if channels % groups == 0), default=1)


def put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with a layer in the place of this name."""
    if not name:
        return layer
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)
    return model


def _with_what_follows(name: str, layer: _BatchNorm, instead: nn.Module) -> nn.Module:
    """What stands for a BatchNorm, and after it the dropout and activation that timm's have within them."""
    if type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return instead
    inner = dict(layer.named_children())
    if list(inner) != ["drop", "act"]:
        raise ConfigError(
            f"model: `{name}` ({type(layer).__name__}) is a BatchNorm with a forward pass of its own, which "
            "no other layer can stand for; build the model with nn.BatchNorm or nn.GroupNorm there"
        )
    return nn.Sequential(instead, *inner.values())
