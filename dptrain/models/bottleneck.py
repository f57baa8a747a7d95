"""What may stand between the features of a model and its head: dropout, and a noisy code of few numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARPEST = 5.0  # by which deviations begin below one, as Alemi et al. have it


class Bottleneck(nn.Module):
    """A variational information bottleneck: features (N, features) to a normal code (N, size) of each record.

    Alemi et al. 2017, "Deep variational information bottleneck"; as a defence against inversion Wang et al.
    2021, "Improving robustness to model inversion attacks via mutual information regularization" (MID). While
    it trains a code is drawn, and the gradient of `weight` times its divergence from the standard normal, in
    nats, is added on the way back, so that each way to gradients of records has that of the penalty too.
    In evaluation the code is its mean. With several copies of a record each copy's penalty counts in full.
    """

    def __init__(self, features: int, size: int, *, weight: float) -> None:
        super().__init__()
        self.encode = nn.Linear(features, 2 * size)
        self.weight = weight

    def forward(self, features: Tensor) -> Tensor:
        mean, deviation = self.code(features)
        if not self.training:
            return mean
        if self.encode.weight.requires_grad:  # whoever attacks draws codes, and pays nothing for them
            mean, deviation = _Charged.apply(mean, deviation, self.weight)
        return mean + deviation * torch.randn_like(mean)

    def code(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each record's code: (N, size) each."""
        mean, raw = self.encode(features).chunk(2, dim=-1)
        return mean, F.softplus(raw - SHARPEST)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Of N(mean, deviation^2) from N(0, 1), added up over each record's code: (N,), in nats."""
    return (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum(-1) / 2


class _Charged(torch.autograd.Function):
    """The code as it is, on whose way back the gradient of its weighted divergence is added."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, deviation: Tensor, weight: float) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return mean.clone(), deviation.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        mean, deviation, ctx.weight = inputs
        ctx.save_for_backward(mean, deviation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, deviation = ctx.saved_tensors
        of_mean, of_deviation = gradients
        added = ctx.weight * (deviation - deviation.reciprocal())
        return of_mean + ctx.weight * mean, of_deviation + added, None


def before_the_head(
    units: int, *, dropout: float, bottleneck: int, bottleneck_weight: float
) -> tuple[list[nn.Module], int]:
    """Layers between features and head, and how many numbers they leave of `units`; 0 leaves one out."""
    layers: list[nn.Module] = []
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    if bottleneck > 0:
        layers.append(Bottleneck(units, bottleneck, weight=bottleneck_weight))
        units = bottleneck
    return layers, units
