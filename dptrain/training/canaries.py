"""Canaries in a training: units without a record, given by their gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dptrain.contracts import Canaries
from dptrain.privacy.clipping import Clipper

ELEMENTS = 20_000_000  # numbers held at once, for gradients that are zero but in one place


def gradients(canaries: Canaries, chosen: Tensor, model: nn.Module) -> Iterator[list[Tensor]]:
    """Gradients of the chosen canaries, one (canaries, ...) a parameter, in parts that fit in memory."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in parameters]
    for part in canaries.coordinates[chosen].split(max(1, ELEMENTS // sum(sizes))):
        rows = torch.zeros(len(part), sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
        rows[torch.arange(len(part)), part] = canaries.norm
        yield [
            piece.view(len(part), *parameter.shape)
            for piece, parameter in zip(rows.split(sizes, dim=1), parameters, strict=True)
        ]


def lengths(canaries: Canaries, model: nn.Module, clipper: Clipper | None) -> Tensor:
    """How much of each canary's gradient is left by clipping: (canaries,)."""
    if clipper is None:
        return torch.full((len(canaries),), canaries.norm)
    ends = torch.tensor([p.numel() for p in model.parameters() if p.requires_grad]).cumsum(0)
    owner = torch.searchsorted(ends, canaries.coordinates, right=True)
    norms = torch.zeros(len(ends), len(canaries))
    norms[owner, torch.arange(len(canaries))] = canaries.norm
    return (norms * clipper.factors(norms)).sum(0)
