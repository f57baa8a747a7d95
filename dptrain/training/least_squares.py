"""A linear head from second moments: ridge regression, whose weight follows from the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dptrain.privacy.exact_moments import Moments
from dptrain.privacy.moments import MomentsPlan

SURE = 3.0  # standard deviations by which the noisy eigenvalue is taken to be too large


def ridge_of(moments: Moments, plan: MomentsPlan, *, strength: float, least: float) -> float:
    """The weight of the ridge: what noise may take from an eigenvalue, less what all of them have anyway.

    The largest eigenvalue of a symmetric matrix of noise of size d, with standard deviation s beside the
    diagonal, is about 2 s sqrt(d); `strength` times as much is added, less the smallest eigenvalue of the
    moments, as far as that is sure to be there (AdaSSP: Wang 2018, "Revisiting differentially private linear
    regression", Algorithm 2).
    """
    noise = 2.0 * plan.beside_std * math.sqrt(len(moments.second))
    there = 0.0
    if moments.eigenvalue is not None and plan.eigenvalue_std is not None:
        there = max(0.0, float(moments.eigenvalue) - SURE * plan.eigenvalue_std)
    return max(least, strength * noise - there)


def solve(moments: Moments, ridge: float) -> Tensor:
    """The weights (d, outputs) of least squares with this ridge, float64.

    Eigenvalues that noise has made negative count as zero: that is made of noisy numbers alone.
    """
    values, vectors = torch.linalg.eigh(moments.second)
    return vectors @ ((vectors.T @ moments.cross) / (values.clamp(min=0.0) + ridge)[:, None])


def head_of(
    solution: Tensor, *, norm: float, constant: float, scale: float, prior: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """Weight (outputs, features) and bias (outputs,) of the layer on features as they are.

    Rows were features over `norm`, and a constant (`rows_of`); outputs, which are shares of classes less
    1 / classes, are made logits by a `scale`. With declared class frequencies `prior` all classes weigh
    alike: what a model that knows nothing would say of a class is subtracted.
    """
    centred = solution - solution.mean(1, keepdim=True)  # indicators less 1 / classes add up to zero
    weight = centred[:-1].T * (scale * math.sqrt(1.0 - constant) / norm)
    bias = centred[-1] * (scale * math.sqrt(constant))
    if prior is not None:
        bias = bias - scale * (torch.tensor(prior, dtype=bias.dtype) - 1.0 / len(prior))
    return weight, bias
