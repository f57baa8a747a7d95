"""How much of each record's gradient goes into the sum: at most `max_grad_norm`, whatever the record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

KINDS = ("flat", "per_layer", "automatic")

# Keeps a vanishing gradient from being blown up to full length (Bu et al. 2023, "Automatic Clipping", eq. 5).
AUTOMATIC_STABILITY = 0.01


@dataclass(frozen=True, kw_only=True)
class Clipper:
    """Turns the norms of one record's gradient into factors that keep its whole contribution in bounds.

    `layers` says which layer each parameter belongs to; flat and automatic clipping see one
    layer, the whole model. Per-layer clipping splits the norm evenly: max_grad_norm / sqrt(layers).
    """

    kind: str
    max_grad_norm: float
    layers: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, kind: str, max_grad_norm: float) -> Clipper:
        """The clipper for the trainable parameters of a model, in the order of `model.parameters()`."""
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if kind != "per_layer":
            return cls(kind=kind, max_grad_norm=max_grad_norm, layers=(0,) * len(names))
        owners = [name.rpartition(".")[0] for name in names]
        number = {owner: index for index, owner in enumerate(dict.fromkeys(owners))}
        return cls(kind=kind, max_grad_norm=max_grad_norm, layers=tuple(number[owner] for owner in owners))

    def factors(self, norms: Tensor) -> Tensor:
        """From gradient norms (parameters, records) to the factors to scale by, of the same shape.

        A record with a norm that is not finite gets zeros, in every row: its gradient says nothing
        that can be bounded, and one such record must not spoil the sum.
        """
        count = max(self.layers) + 1
        limit = self.max_grad_norm / math.sqrt(count)
        totals = self._totals(norms, count)
        if self.kind == "automatic":
            factors = limit / (totals + AUTOMATIC_STABILITY)
        else:
            factors = (limit / (totals + 1e-6)).clamp(max=1.0)
        finite = torch.isfinite(totals)
        if count == 1:
            return factors.where(finite, 0.0).expand_as(norms)
        return factors.where(finite.all(dim=0), 0.0)[list(self.layers)]

    def _totals(self, norms: Tensor, count: int) -> Tensor:
        """Norm of each record's gradient, layer by layer: (layers, records)."""
        if count == 1:  # as by default; the general way below costs a small model 3 % of its step
            return torch.linalg.vector_norm(norms, dim=0, keepdim=True)
        layer = torch.tensor(self.layers, device=norms.device)
        return norms.new_zeros(count, norms.shape[1]).index_add(0, layer, norms.square()).sqrt()


def left_out(factors: Tensor) -> int:
    """How many records have factors (parameters, records) of zero: `Clipper.factors` has them in all rows."""
    return int((factors[0] == 0).sum())


def gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Norm of each record's gradient, parameter by parameter: (parameters, records), float32 or wider."""
    return torch.stack([wide(gradient).flatten(1).norm(dim=1) for gradient in gradients])


def scaled(gradient: Tensor, factors: Tensor, *, zeros: bool = True) -> Tensor:
    """Per-record gradients (records, ...) times their factors; a factor of zero means zero, not 0 x NaN.

    `zeros=False` promises that there is no factor of zero.
    """
    gradient = wide(gradient)
    shape = (-1,) + (1,) * (gradient.dim() - 1)
    if zeros:
        gradient = torch.where((factors != 0).view(shape), gradient, torch.zeros_like(gradient))
    return gradient * factors.view(shape)


def weighted_sum(gradient: Tensor, factors: Tensor, *, zeros: bool = True) -> Tensor:
    """Sum over records of gradient times factor, with the zeros of `scaled`."""
    if zeros:
        return scaled(gradient, factors).sum(0)
    return (factors @ wide(gradient).flatten(1)).view(gradient.shape[1:])


def wide(gradient: Tensor) -> Tensor:
    """In single precision at least: a norm rounded to bfloat16 may hide 0.4 % of the sensitivity."""
    return gradient if gradient.dtype == torch.float64 else gradient.float()
