"""Ordinal: one class a record, of classes that are in an order, such as grades of a disease."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dptrain.contracts import Interval, Utility
from dptrain.contracts.task import Pairs
from dptrain.tasks.classification import Classification
from dptrain.tasks.means import interval_of_mean, jackknife


@dataclass(frozen=True, kw_only=True)
class Ordinal(Classification):
    """One of some classes in an order, lowest first: labels, outputs and predictions as of classification.

    The loss asks, at each of the classes - 1 borders, whether a record lies above it, and adds up the
    cross-entropies: to miss by two grades costs more than by one. The chance of lying above a border is
    the sum of the probabilities of the classes there, so that it never rises from one border to the next;
    the loss is least, in expectation, at the true probabilities, for each of its terms is (Gneiting and
    Raftery 2007). Its gradient by the outputs is no longer than sqrt(2) a border.
    """

    name: ClassVar[str] = "ordinal"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        borders = torch.arange(self.classes - 1, device=outputs.device)
        above = torch.arange(self.classes, device=outputs.device) > borders[:, None]  # (borders, classes)
        right = above == (labels[:, None] > borders)[:, :, None]
        logs = outputs.log_softmax(-1)[:, None, :].masked_fill(~right, -math.inf)
        return -logs.logsumexp(-1).sum(-1)

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        right = loss = 0.0
        records = 0
        for logits, labels in outputs:
            right += float((logits.argmax(-1) == labels).sum())
            loss += float(self.loss(logits.float(), labels).double().sum())
            records += len(labels)
        return right / records, loss / records

    def utility(self, predictions: Pairs, *, confidence: float, groups: Tensor | None = None) -> Utility:
        """Of the likeliest class what classification measures; the mean distance from the true one; kappa."""
        made, labels = (torch.cat(side).cpu() for side in zip(*predictions, strict=True))
        found = super().utility([(made, labels)], confidence=confidence, groups=groups)
        # One that is no number is as wrong as can be.
        furthest = torch.where(2 * labels < self.classes - 1, self.classes - 1, 0)
        named = torch.where(made.isfinite().all(-1), made.argmax(-1), furthest)
        away = (named - labels).abs()
        logs = made.double().clamp(min=torch.finfo(torch.float32).tiny).log()
        return replace(
            found,
            loss=float(self.loss(logs, labels).mean()),
            more={
                **found.more,
                "mean_absolute_grade_error": interval_of_mean(
                    away, confidence, most=self.classes - 1.0, groups=groups
                ),
                "quadratic_weighted_kappa": weighted_kappa(named, labels, self.classes, confidence, groups),
            },
        )


def weighted_kappa(
    named: Tensor, labels: Tensor, classes: int, confidence: float, groups: Tensor | None = None
) -> Interval:
    """Cohen's kappa with squared distances as weights, and its jackknife interval; NaN where all are alike.

    1 less the mean squared distance between the two, over what it would be if they were independent.
    """
    one, two = (one_hot(each, classes).double() for each in (named, labels))
    grades = torch.arange(classes, dtype=torch.float64)
    squares = (grades[:, None] - grades).square()
    count = len(labels)
    apart = (named - labels).double().square()
    rows, columns = one.sum(0), two.sum(0)  # counts of each class, as named and in truth
    expected = float(rows @ squares @ columns) / count
    if expected == 0.0:
        return Interval(value=math.nan, low=-1.0, high=1.0)
    value = 1 - float(apart.sum()) / expected
    others = (rows - one) @ squares * (columns - two)
    without = 1 - (apart.sum() - apart) / (others.sum(-1) / max(1, count - 1))
    without = without.nan_to_num(value)
    return jackknife(value, without, confidence, least=-1.0, most=1.0, groups=groups)
