"""Layers without a rule of ours: Opacus' own per-record gradients, in full."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
from torch import Tensor, nn

from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Rule, Use, sum_copies
from dptrain.privacy.clipping import wide

log = logging.getLogger(__name__)

Sampler = Callable[..., Mapping[Tensor, Tensor]]


def opacus_rule(layer: nn.Module, samplers: Mapping[Any, Sampler]) -> Rule:
    """A rule from Opacus' sampler for this type of layer, or else from functorch."""
    sampler = samplers.get(type(layer), ft_compute_per_sample_gradient)
    if sampler is ft_compute_per_sample_gradient:
        prepare_layer(layer)

    def rule(use: Use) -> dict[Tensor, Share]:
        rows = sampler(use.layer, list(use.inputs), use.grads)
        return {
            parameter: Instantiated.of([sum_copies(wide(found), use.copies)])
            for parameter, found in rows.items()
            if parameter.requires_grad
        }

    return rule


def tell(names: Mapping[str, list[str]]) -> None:
    """Say once which layers, by type, are formed in full."""
    for kind, layers in names.items():
        log.info("%s (%s): per-record gradients by Opacus, in full", kind, ", ".join(layers))
