"""The density of the minimum of a perturbed objective, by automatic differentiation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Problem:
    """Records with their weights, and what else the objective is made of."""

    rows: Tensor  # (n, d)
    labels: Tensor  # (n,)
    weights: Tensor  # (n,)
    ridge: float
    offsets: Tensor  # (classes,)

    def objective(self, point: Tensor) -> Tensor:
        logits = self.rows @ point + self.offsets
        losses = cross_entropy(logits, self.labels, reduction="none") @ self.weights
        return losses + self.ridge / 2 * point.square().sum()

    def linear_term(self, point: Tensor) -> Tensor:
        """The one linear term with which the minimum is this point (d, classes)."""
        moving = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.objective(moving), moving)
        return -slope

    def log_density(self, point: Tensor, std: float) -> float:
        """Of the minimum, at this point, up to a constant; `std` is that of the linear term."""
        bent = hessian(self.objective, point).reshape(point.numel(), point.numel())
        return float(torch.linalg.slogdet(bent)[1] - self.linear_term(point).square().sum() / (2 * std**2))

    def normals(self, point: Tensor, std: float, rows: Tensor, labels: Tensor) -> list[float]:
        """For each of these records the largest of its normal numbers, the Z of the proof."""
        numbers = rows @ self.linear_term(point) / (std * rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
        return [
            float((torch.cat([each[:label], each[label + 1 :]]).max() - each[label]) / math.sqrt(2.0))
            for each, label in zip(numbers, labels, strict=True)
        ]
