"""Layers that DP-SGD cannot train, named, with their cure."""

from __future__ import annotations

import copy

from opacus.layers import DPMultiheadAttention
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dptrain.contracts import ConfigError
from dptrain.contracts.batch_norm import batch_norms, frozen_batch_norm, group_norm_instead, norm_groups
from dptrain.contracts.layers import put


def check_layers(model: nn.Module, *, replace_batch_norm: bool, freeze_batch_norm: bool = False) -> nn.Module:
    """The model, fit for per-record gradients; BatchNorm replaced or frozen where that was asked for.

    With both, what is not trained is frozen and all else replaced. Raises ConfigError naming the
    layers that mix records, keep statistics of them or have no per-record gradient.
    """
    mixing = batch_norms(model)
    if mixing and not (replace_batch_norm or freeze_batch_norm):
        first = next(iter(mixing.values()))
        named = ", ".join(f"`{name}` ({type(layer).__name__})" for name, layer in mixing.items())
        raise ConfigError(
            f"model: {named} normalises each record by the others of its batch, so no record's influence can "
            f"be bounded; set mechanism.replace_batch_norm=true to use GroupNorm({norm_groups(first)}, "
            f"{first.num_features}) there instead, or, where it comes with statistics of public data, "
            "mechanism.freeze_batch_norm=true to apply these as constants"
        )
    _refuse(model)
    fixed = copy.deepcopy(model) if mixing else model
    for name, layer in mixing.items():
        trains = any(parameter.requires_grad for parameter in layer.parameters())
        frozen = freeze_batch_norm and not (replace_batch_norm and trains)
        fixed = put(fixed, name, (frozen_batch_norm if frozen else group_norm_instead)(name, layer))
    fixed.train()
    if not any(parameter.requires_grad for parameter in fixed.parameters()):
        raise ConfigError("model: no parameter requires a gradient, so there is nothing to train")
    return fixed


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
