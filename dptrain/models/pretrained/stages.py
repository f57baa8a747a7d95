"""Outputs of several stages of a network, pooled and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError

POOLED = "pooled"  # the name of what the network itself ends in, without its head


class Stages(nn.Module):
    """Means over positions of what stages return, side by side: (N, width).

    Stages are modules of the network, by name; `pooled` is what it ends in itself. They return (N, C, H, W),
    or (N, H, W, C) with `channels_last`, or sequences (N, L, C). With `normalised` the features of a record
    have mean 0 and variance 1, stage by stage.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str], *, channels_last: bool, normalised: bool
    ) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        self.channels_last, self.normalised = channels_last, normalised

    def forward(self, images: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}

        def keep(_module: nn.Module, _inputs: Any, output: Any, *, name: str) -> None:
            found[name] = self.pooled(output[0] if isinstance(output, tuple) else output)

        stages = [name for name in self.names if name != POOLED]
        hooks = [
            self.network.get_submodule(name).register_forward_hook(partial(keep, name=name))
            for name in stages
        ]
        try:
            found[POOLED] = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [name for name in self.names if name not in found]:
            raise ConfigError(
                f"model.features={list(self.names)}: {', '.join(missing)} returns nothing, for this network "
                "does not call it; choose other modules"
            )
        each = [found[name] for name in self.names]
        return torch.cat([normalise(one) if self.normalised else one for one in each], dim=1)

    def pooled(self, output: Tensor) -> Tensor:
        """(N, C)"""
        if output.dim() == 4:
            return output.mean((1, 2) if self.channels_last else (2, 3))
        return output.mean(1) if output.dim() == 3 else output

    def extra_repr(self) -> str:
        return f"names={self.names}, normalised={self.normalised}"


def normalise(features: Tensor) -> Tensor:
    """Each record's features (N, width) with mean 0 and variance 1."""
    return nn.functional.layer_norm(features, features.shape[1:])


def check_stages(network: nn.Module, names: Sequence[str]) -> None:
    """Raise ConfigError for no names, and for those that no module of the network has."""
    if not names:
        raise ConfigError(f"model.features=[] names nothing; give {POOLED}, or modules of the network")
    known = dict(network.named_modules())
    if unknown := [name for name in names if name != POOLED and (name not in known or not name)]:
        usable = [name for name in known if name and name.count(".") <= 1 and any(known[name].children())]
        raise ConfigError(
            f"model.features={list(names)}: {', '.join(unknown)} is no module of this network; choose of "
            f"{POOLED}, {', '.join(usable[:30])}"
        )
