"""Calibration: whether a class that is named with a confidence is right as often as that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import Bin, Calibration, Interval
from dptrain.evidence.clusters import effective_number, of_several, share
from dptrain.evidence.intervals import variance_of_share

BINS = 10  # of as many records each, but for those of the same confidence
RESAMPLES = 2000


def calibration(
    confidences: Tensor, right: Tensor, confidence: float, groups: Tensor | None = None
) -> Calibration:
    """Expected calibration error over bins of equal numbers of records (Nguyen and O'Connor 2015).

    The error of a sample is too large in the mean, as chance alone parts confidences and shares in every bin.
    So the interval reaches as far to both sides as such distances do from those of the sample in 95 % of all
    samples (the triangle inequality), by a parametric bootstrap: it holds for models without any error too.
    Records of the same confidence are in one bin: which of them comes first says nothing. Those of one of
    `groups` may depend on each other: then the bootstrap draws groups too, and the longer reach is taken.
    """
    order = torch.argsort(confidences, stable=True)
    ordered = confidences[order]
    edges = np.cumsum([len(part) for part in order.tensor_split(BINS)])[:-1].tolist()
    kept = [at for at in edges if 0 < at < len(order) and bool(ordered[at - 1] < ordered[at])]
    parts = order.tensor_split(sorted({*kept}))
    bins = []
    for part in parts:
        found = share(right[part], None if groups is None else groups[part], confidence)
        mean = float(confidences[part].double().mean())
        bins.append(Bin(confidence=mean, right=found, records=len(part)))
    weights = np.array([each.records for each in bins]) / len(right)
    gaps = np.array([abs(each.confidence - each.right.value) for each in bins])
    worth = [float(each.records) for each in bins]
    if (numbers := of_several(groups)) is not None:
        worth = [
            effective_number(
                right[part],
                numbers[part],
                confidence,
                one_more=variance_of_share(each.right.value, len(numbers[part].unique())),
            )
            for each, part in zip(bins, parts, strict=True)
        ]
    spread = np.sqrt(
        [variance_of_share(each.right.value, own) / own for each, own in zip(bins, worth, strict=True)]
    )
    drawn = np.random.default_rng(0).standard_normal((RESAMPLES, len(bins)))
    reach = float(np.quantile(np.abs(drawn) @ (weights * spread), confidence))
    if numbers is not None:
        reach = max(reach, _of_groups(right.double(), numbers, parts, confidence))
    error = float(weights @ gaps)
    return Calibration(
        error=Interval(value=error, low=max(0.0, error - reach), high=min(1.0, error + reach)),
        bins=tuple(bins),
    )


def _of_groups(right: Tensor, numbers: Tensor, parts: Sequence[Tensor], confidence: float) -> float:
    """How far the shares of all bins lie from the true ones, groups being drawn: a wild bootstrap."""
    several = int(numbers.max()) + 1
    sums = np.stack(
        [
            np.bincount(
                numbers[part].numpy(), weights=(right[part] - right[part].mean()).numpy(), minlength=several
            )
            for part in parts
        ]
    )
    drawn = np.random.default_rng(0).standard_normal((RESAMPLES, several))
    apart = np.abs(drawn @ sums.T).sum(1) / len(right)
    return float(np.quantile(apart, confidence)) * math.sqrt(several / max(1, several - 1))
