"""How much of each record's gradient goes into the sum: at most `max_grad_norm`, whatever the record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dptrain.contracts import devices
from dptrain.privacy.banded import GradientPlan

KINDS = ("flat", "per_layer", "automatic")

# How far below the claimed norm records are clipped, so that what a record adds in floating point, one
# record more or less, never exceeds it. In float32 (unit roundoff u = 2^-24): a norm from Gram matrices, or
# formed once to be measured and again to be added, is off where a record's terms cancel; with the slack
# that `norms_from` adds, what is added passes the norm by at most u L / (2 sqrt(u) L) = 2^-13
# of it, L being the sum of the terms' lengths. Norm, factor and product add some u. Together below 2^-11.
# The sum of a batch is rounded too, and differently with one record less. In float32 that alone can pass the
# claim: a sum that a record lifts over a power of two rounds all that come after it otherwise (Casacuberta et
# al. 2022, "Widespread Underestimation of Sensitivity in DP Libraries"). Nothing of two records is ever
# added in float32, but in float64, where N terms are off by at most N 2^-53 times the sum of their lengths.
# Products of layers add at most 2^19 rows at once, and a record's L is at most 2^10.5 of the claim (by
# `norms_from`): twice that is below 2^-22 a record; 2^-21 are kept, for batches twice as large as expected.
MARGIN, MARGIN_A_RECORD = 2.0**-11, 2.0**-21

# Keeps a vanishing gradient from being blown up to full length (Bu et al. 2023, "Automatic Clipping", eq. 5).
AUTOMATIC_STABILITY = 0.01


@dataclass(frozen=True, kw_only=True)
class Clipper:
    """Turns the norms of one record's gradient into factors that keep its whole contribution in bounds.

    `layers` says which layer each parameter belongs to; flat and automatic clipping see one
    layer, the whole model. Per-layer clipping splits the norm evenly: max_grad_norm / sqrt(layers).
    Records are clipped to max_grad_norm (1 - margin), so that rounding never makes more of them.
    """

    kind: str
    max_grad_norm: float
    layers: tuple[int, ...]
    margin: float = MARGIN

    @classmethod
    def of(
        cls, model: nn.Module, kind: str, max_grad_norm: float, *, expected_batch_size: int = 0
    ) -> Clipper:
        """The clipper for the trainable parameters of a model, in the order of `model.parameters()`."""
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        layers: tuple[int, ...] = (0,) * len(names)
        if kind == "per_layer":
            owners = [name.rpartition(".")[0] for name in names]
            number = {owner: index for index, owner in enumerate(dict.fromkeys(owners))}
            layers = tuple(number[owner] for owner in owners)
        margin = min(MARGIN + MARGIN_A_RECORD * expected_batch_size, 0.5)
        return cls(kind=kind, max_grad_norm=max_grad_norm, layers=layers, margin=margin)

    @classmethod
    def by(cls, plan: GradientPlan, model: nn.Module) -> Clipper:
        """The clipper that keeps what this plan claims."""
        return cls.of(model, plan.clipping, plan.max_grad_norm, expected_batch_size=plan.expected_batch_size)

    def factors(self, norms: Tensor) -> Tensor:
        """From gradient norms (parameters, records) to the factors to scale by, of the same shape.

        A record with a norm that is not finite gets zeros, in every row: its gradient says nothing
        that can be bounded, and one such record must not spoil the sum.
        """
        count = max(self.layers) + 1
        limit = self.max_grad_norm * (1.0 - self.margin) / math.sqrt(count)
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
    """Sum over records of gradient times factor, in double precision, with the zeros of `scaled`."""
    rows, factors = devices.in_double(gradient).flatten(1), devices.in_double(factors)
    if zeros:  # a factor of zero means zero, not 0 x NaN
        rows = rows.where((factors != 0)[:, None], 0.0)
    return (factors @ rows).view(gradient.shape[1:])


def wide(gradient: Tensor) -> Tensor:
    """In single precision at least: a norm rounded to bfloat16 may hide 0.4 % of the sensitivity."""
    return gradient if gradient.dtype == torch.float64 else gradient.float()
