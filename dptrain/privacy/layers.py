"""Layers that DP-SGD cannot train, named, with their cure."""

from __future__ import annotations

import math

from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from dptrain.contracts import ConfigError


def check_layers(model: nn.Module, *, replace_batch_norm: bool) -> nn.Module:
    """The model, fit for per-record gradients; BatchNorm replaced by GroupNorm where that was asked for.

    Raises ConfigError naming every layer that mixes records or has no per-record gradient.
    """
    mixing = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if mixing and not replace_batch_norm:
        named = ", ".join(f"`{name}` ({type(layer).__name__})" for name, layer in mixing)
        raise ConfigError(
            f"model: {named} normalises each record by the others of its batch, so no record's influence can "
            f"be bounded; set mechanism.replace_batch_norm=true to use GroupNorm({_groups(mixing[0][1])}, "
            f"{mixing[0][1].num_features}) there instead"
        )
    if tracking := [name for name, layer in model.named_modules() if _tracks_statistics(layer)]:
        raise ConfigError(
            f"model: `{tracking[0]}` keeps running statistics of the records, which would be released "
            "without noise; build it with track_running_stats=False"
        )
    fixed: nn.Module = ModuleValidator.fix(model) if mixing else model
    fixed.train()
    if problems := ModuleValidator.validate(fixed, strict=False):
        raise ConfigError("model: " + "; ".join(str(problem) for problem in problems))
    if not any(parameter.requires_grad for parameter in fixed.parameters()):
        raise ConfigError("model: no parameter requires a gradient, so there is nothing to train")
    return fixed


def _tracks_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, _InstanceNorm) and layer.track_running_stats


def _groups(layer: _BatchNorm) -> int:
    return math.gcd(32, layer.num_features)  # as Opacus chooses
