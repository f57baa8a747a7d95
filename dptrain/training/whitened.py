"""Rows made less unequal by their noisy second moments, and what a linear layer on these is on the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dptrain.contracts import Records
from dptrain.training.features import CHUNK


@dataclass(frozen=True, kw_only=True)
class SecondMoments:
    """Sums over records of z z', (d, d), symmetric, float64."""

    second: Tensor


def transform(moments: SecondMoments, *, ridge: float, power: float, length: float) -> Tensor:
    """The symmetric matrix (d, d) that divides rows by their standard deviation to the power of `power`.

    Each direction by its own; eigenvalues that noise has made negative count as zero, and `ridge` is added
    to all. Rows are then as long as `length` times what they were, in the mean square by these moments.
    """
    values, vectors = torch.linalg.eigh(moments.second)
    there = values.clamp(min=0.0)
    weights = (there + ridge) ** (-power / 2)
    weights = weights * (length * math.sqrt(float(there.sum() / (there * weights.square()).sum())))
    return (vectors * weights) @ vectors.T


def records(batches: Iterable[tuple[Tensor, Tensor, Tensor]], by: Tensor, dtype: torch.dtype) -> Records:
    """Rows (n, d), with their labels, batch by batch, times the matrix `by`.

    Batches are filled up with rows that are no record: however many there are, each is rounded alike.
    """
    parts = []
    for rows, labels, _ in batches:
        filled = torch.cat([rows, rows.new_zeros(CHUNK - len(rows), rows.shape[1])])
        parts.append(((filled @ by)[: len(rows)].to(dtype), labels))
    inputs, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return Records(inputs, labels)
