"""Regression: a number a record, within declared bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Interval, Utility
from dptrain.contracts.task import Pairs
from dptrain.tasks.means import interval_of_mean


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Labels (n,) of floats within `bounds`, which are declared and public; outputs (n, 1).

    A model is trained to say where in the bounds a number lies, 0 at the lower and 1 at the upper end; its
    prediction (n, 1) is in the unit of the labels. The loss is half the squared error in the scale of the
    bounds.
    """

    name: ClassVar[str] = "regression"
    metric: ClassVar[str] = "r2"
    outputs: ClassVar[tuple[int, ...]] = (1,)

    bounds: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"bounds={self.bounds} of a regression must be two finite numbers, lower first")

    @property
    def _span(self) -> float:
        return self.bounds[1] - self.bounds[0]

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        aim = (labels - self.bounds[0]) / self._span
        return 0.5 * (outputs.squeeze(-1) - aim.to(outputs)).square()

    def predict(self, outputs: Tensor) -> Tensor:
        return (self.bounds[0] + self._span * outputs).clamp(*self.bounds)

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        return self.bounds[0] + self._span * torch.rand(count, generator=rng)

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        """R2 of the predictions, and the mean loss."""
        loss = 0.0
        made, known = [], []
        for values, labels in outputs:
            loss += float(self.loss(values.float(), labels).sum())
            made.append(self.predict(values.float()).squeeze(-1).cpu())
            known.append(labels.cpu())
        labels = torch.cat(known)
        return r2(torch.cat(made), labels), loss / len(labels)

    def utility(self, predictions: Pairs, *, confidence: float) -> Utility:
        """R2 with a jackknife interval; mean absolute and squared error in the unit of the labels."""
        made, labels = (torch.cat(side).double() for side in zip(*predictions, strict=True))
        made = made.squeeze(-1)
        errors = made - labels
        span = self._span
        return Utility(
            accuracy=_jackknife(made, labels, confidence),
            auroc=math.nan,
            loss=float((errors / span).square().mean()) / 2,
            records=len(labels),
            metric=self.metric,
            scores=_shares(errors, labels),
            more={
                "mean_absolute_error": interval_of_mean(errors.abs(), confidence, most=span),
                "mean_squared_error": interval_of_mean(errors.square(), confidence, most=span**2),
            },
        )

    def floor(self, labels: Tensor) -> float:  # noqa: ARG002
        """R2 of the mean of the labels."""
        return 0.0

    def problem(self, labels: Tensor) -> str | None:
        if not labels.is_floating_point() or labels.ndim != 1:
            return f"are {labels.dtype}, {tuple(labels.shape)}; give floats of shape (N,)"
        if not bool(((labels >= self.bounds[0]) & (labels <= self.bounds[1])).all()):
            return f"lie outside the declared bounds {self.bounds}; declare the true ones, or clip them"
        return None


def r2(made: Tensor, labels: Tensor) -> float:
    """Coefficient of determination: 1 less the squared error over that of the mean; NaN where all are equal.

    >>> r2(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
    0.5
    """
    labels = labels.double()
    spread = float((labels - labels.mean()).square().sum())
    return 1.0 - float((made.double() - labels).square().sum()) / spread if spread > 0 else math.nan


def _shares(errors: Tensor, labels: Tensor) -> Tensor | None:
    """What each record adds to R2, which is their mean; None where all labels are equal."""
    spread = (labels - labels.mean()).square().mean()
    return 1 - errors.square() / spread if bool(spread > 0) else None


def _jackknife(made: Tensor, labels: Tensor, confidence: float) -> Interval:
    """R2 with the interval of its pseudo-values (Tukey 1958), one a record."""
    value, count = r2(made, labels), len(labels)
    if math.isnan(value) or count < 3:
        return Interval(value=value, low=-math.inf, high=1.0)
    squares = (made - labels).square()
    others = count - 1  # of each record: the mean and the spread of those without it
    mean = (labels.sum() - labels) / others
    spread = labels.square().sum() - labels.square() - others * mean.square()
    without = 1 - (squares.sum() - squares) / spread
    pseudo = count * value - others * without
    around = interval_of_mean(pseudo, confidence, least=-math.inf)
    return Interval(value=value, low=value - (around.value - around.low), high=min(1.0, around.high))
