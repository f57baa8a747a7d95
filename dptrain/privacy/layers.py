"""Layers that DP-SGD cannot train, named, with their cure, and what replaces BatchNorm."""

from __future__ import annotations

import copy
import math

import torch
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dptrain.contracts import ConfigError

MOST_GROUPS = 32  # as GroupNorm's authors chose
# Channels a group at least: a vector has no positions beside them, an image may have come down to one.
FEWEST_OF_VECTOR, FEWEST_OF_IMAGE = 16, 8


def check_layers(model: nn.Module, *, replace_batch_norm: bool, freeze_batch_norm: bool = False) -> nn.Module:
    """The model, fit for per-record gradients; BatchNorm replaced or frozen where that was asked for.

    With both, what is not trained is frozen and all else replaced. Raises ConfigError naming the
    layers that mix records, keep statistics of them or have no per-record gradient.
    """
    mixing = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    if mixing and not (replace_batch_norm or freeze_batch_norm):
        first = next(iter(mixing.values()))
        named = ", ".join(f"`{name}` ({type(layer).__name__})" for name, layer in mixing.items())
        raise ConfigError(
            f"model: {named} normalises each record by the others of its batch, so no record's influence can "
            f"be bounded; set mechanism.replace_batch_norm=true to use GroupNorm({_groups(first)}, "
            f"{first.num_features}) there instead, or, where it comes with statistics of public data, "
            "mechanism.freeze_batch_norm=true to apply these as constants"
        )
    _refuse(model)
    fixed = copy.deepcopy(model) if mixing else model
    for name, layer in mixing.items():
        trains = any(parameter.requires_grad for parameter in layer.parameters())
        instead = (
            _frozen(name, layer)
            if freeze_batch_norm and not (replace_batch_norm and trains)
            else _replaced(layer)
        )
        fixed = _put(fixed, name, instead)
    fixed.train()
    if not any(parameter.requires_grad for parameter in fixed.parameters()):
        raise ConfigError("model: no parameter requires a gradient, so there is nothing to train")
    return fixed


class FrozenBatchNorm(nn.Module):
    """The affine map that a BatchNorm is in evaluation, in training too: its statistics are constants.

    Parameters and buffers have the names that BatchNorm's have; none of them ever changes.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.eps = layer.eps
        for name, value in (*layer.named_parameters(), *layer.named_buffers()):
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


def _frozen(name: str, layer: _BatchNorm) -> nn.Module:
    if layer.running_mean is None:
        raise ConfigError(
            f"mechanism.freeze_batch_norm=true: `{name}` keeps no running statistics that could be applied "
            "as constants; use mechanism.replace_batch_norm=true"
        )
    return FrozenBatchNorm(layer)


def _replaced(layer: _BatchNorm) -> nn.Module:
    """GroupNorm in its place, fresh."""
    few = isinstance(layer, nn.BatchNorm1d) and layer.num_features < FEWEST_OF_IMAGE
    kind = GroupNormOfEnough if few else nn.GroupNorm
    where = next(layer.parameters(), torch.zeros(())).device
    return kind(_groups(layer), layer.num_features, affine=layer.affine, device=where)


def _groups(layer: _BatchNorm) -> int:
    """As many groups as leave each enough values that normalising erases none of what they say."""
    fewest = FEWEST_OF_VECTOR if isinstance(layer, nn.BatchNorm1d) else FEWEST_OF_IMAGE
    channels = layer.num_features
    most = min(MOST_GROUPS, math.floor(channels / fewest))
    return max((groups for groups in range(1, most + 1) if channels % groups == 0), default=1)


def _put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    if not name:
        return layer
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)
    return model


def _refuse(model: nn.Module) -> None:
    """Raise ConfigError for layers that keep what records did to them, or compute what they should not."""
    for name, layer in model.named_modules():
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            raise ConfigError(
                f"model: `{name}` keeps running statistics of the records, which would be released "
                "without noise; build it with track_running_stats=False"
            )
        hooks = [type(hook) for hook in layer._forward_pre_hooks.values()]
        if isinstance(layer, _SpectralNorm) or SpectralNorm in hooks:
            raise ConfigError(
                f"model: `{name.split('.parametrizations')[0]}` has spectral_norm, whose power iteration is "
                "carried on from one batch to the next beside the noise; use "
                "torch.nn.utils.parametrizations.weight_norm, or no norm of weights"
            )
        if WeightNorm in hooks:
            raise ConfigError(
                f"model: `{name}` has torch.nn.utils.weight_norm, which keeps a computed weight that cannot "
                "be copied; use torch.nn.utils.parametrizations.weight_norm"
            )
        if type(layer) is DPMultiheadAttention and layer.batch_first:
            raise ConfigError(
                f"model: `{name}` (Opacus' DPMultiheadAttention with batch_first=True) computes something "
                "else than attention; use nn.MultiheadAttention, which trains as it is"
            )
