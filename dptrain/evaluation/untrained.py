"""Models with fresh weights: what an attack makes of its prior alone."""

from __future__ import annotations

import torch
from torch import nn


def reinitialise(model: nn.Module, seed: int) -> nn.Module:
    """This model with the weights of every layer that is trained drawn afresh.

    A frozen part is public, such as a network that was trained on public data: whoever attacks has it too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model.modules():
            trained = any(parameter.requires_grad for parameter in layer.parameters())
            if trained and hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # type: ignore[operator]
    return model
