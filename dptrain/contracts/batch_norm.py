"""What stands for a BatchNorm, which normalises each record by the others of its batch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dptrain.contracts.errors import ConfigError
from dptrain.contracts.layers import FEWEST_OF_IMAGE, FrozenBatchNorm, GroupNormOfEnough

MOST_GROUPS = 32  # as GroupNorm's authors chose
FEWEST_OF_VECTOR = 16  # channels a group at least: a vector has no positions beside them


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
