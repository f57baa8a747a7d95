"""Calibration: whether a class that is named with a confidence is right as often as that."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import Bin, Calibration, Interval
from dptrain.evidence.intervals import clopper_pearson, variance_of_share

BINS = 10  # of as many records each, but for those of the same confidence
RESAMPLES = 2000


def calibration(confidences: Tensor, right: Tensor, confidence: float) -> Calibration:
    """Expected calibration error over bins of equal numbers of records (Nguyen and O'Connor 2015).

    The error of a sample is too large in the mean, as chance alone parts confidences and shares in every bin.
    So the interval reaches as far to both sides as such distances do from those of the sample in 95 % of all
    samples (the triangle inequality), by a parametric bootstrap: it holds for models without any error too.
    Records of the same confidence are in one bin: which of them comes first says nothing.
    """
    order = torch.argsort(confidences, stable=True)
    ordered = confidences[order]
    edges = np.cumsum([len(part) for part in order.tensor_split(BINS)])[:-1].tolist()
    kept = [at for at in edges if 0 < at < len(order) and bool(ordered[at - 1] < ordered[at])]
    parts = order.tensor_split(sorted({*kept}))
    bins = []
    for part in parts:
        found = clopper_pearson(int(right[part].sum()), len(part), confidence)
        mean = float(confidences[part].double().mean())
        bins.append(Bin(confidence=mean, right=found, records=len(part)))
    weights = np.array([each.records for each in bins]) / len(right)
    gaps = np.array([abs(each.confidence - each.right.value) for each in bins])
    spread = np.sqrt([variance_of_share(each.right.value, each.records) / each.records for each in bins])
    drawn = np.random.default_rng(0).standard_normal((RESAMPLES, len(bins)))
    reach = float(np.quantile(np.abs(drawn) @ (weights * spread), confidence))
    error = float(weights @ gaps)
    return Calibration(
        error=Interval(value=error, low=max(0.0, error - reach), high=min(1.0, error + reach)),
        bins=tuple(bins),
    )
