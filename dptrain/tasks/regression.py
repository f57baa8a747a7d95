"""Regression: a number a record, within declared bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from dptrain.contracts import ConfigError, Interval, Utility
from dptrain.contracts.task import Pairs
from dptrain.evidence.intervals import UNDEFINED_AREA
from dptrain.tasks.means import interval_of_mean, jackknife

LEAST_WIDTH = 2e-7  # of bounds, beside the larger of them: a few steps of single precision
LARGEST = 1e30
WIDTH = 4.0  # of the bounds in the scale of outputs: two units on either side of the middle, as standardised


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Labels (n,) of floats within `bounds`, which are declared and public; outputs (n, 1).

    An output is a number of quarters of the bounds' width above their middle: -2 the lower end, 2 the upper.
    A prediction (n, 1) is in the unit of the labels, and within the bounds. The loss is Huber's in the scale
    of outputs, and quadratic as far as the bounds are wide: for every output within them half the squared
    error, whose minimum is the mean that R2 measures; beyond, its gradient by the output stays at 4.
    """

    name: ClassVar[str] = "regression"
    metric: ClassVar[str] = "r2"
    of_classes: ClassVar[bool] = False
    outputs: ClassVar[tuple[int, ...]] = (1,)

    bounds: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"bounds={self.bounds} of a regression must be two finite numbers, lower first")
        largest = max(abs(low), abs(high))
        if high - low < max(LEAST_WIDTH * largest, 1 / LARGEST) or largest > LARGEST:
            raise ConfigError(
                f"bounds={self.bounds} of a regression must be within 1e30 and further apart than single "
                "precision resolves; subtract a constant from the target, or choose another unit"
            )

    @property
    def _span(self) -> float:
        return self.bounds[1] - self.bounds[0]

    def _scaled(self, labels: Tensor) -> Tensor:
        return WIDTH * ((labels - self.bounds[0]) / self._span - 0.5)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        aim = self._scaled(labels).to(outputs)
        return huber_loss(outputs.squeeze(-1), aim, reduction="none", delta=WIDTH)

    def predict(self, outputs: Tensor) -> Tensor:
        return (self.bounds[0] + self._span * (outputs / WIDTH + 0.5)).clamp(*self.bounds)

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        return self.bounds[0] + self._span * torch.rand(count, generator=rng)

    def mislabelled(self, labels: Tensor, draws: Tensor) -> Tensor:
        """A quarter of the bounds' width away at least, around their ends."""
        away = 0.25 + 0.5 * draws.to(labels)
        return self.bounds[0] + self._span * (((labels - self.bounds[0]) / self._span + away) % 1.0)

    def log_likelihood(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Of normal errors, in the scale of outputs, of the variance that those have which are shown here."""
        errors = (predictions.double().squeeze(-1) - labels.double()).nan_to_num(self._span)
        squares = (WIDTH * errors / self._span).square()
        variance = float(squares.mean()) + 1e-30
        return -squares / (2 * variance) - math.log(variance) / 2

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        """R2 of the predictions, and the mean loss."""
        made, labels = (torch.cat(side).cpu() for side in zip(*outputs, strict=True))
        loss = float(self.loss(made.float(), labels).double().mean())
        return r2(self.predict(made.float()).squeeze(-1), labels), loss

    def utility(self, predictions: Pairs, *, confidence: float, groups: Tensor | None = None) -> Utility:
        """R2 with a jackknife interval; mean absolute and root mean squared error in the labels' unit."""
        made, labels = (torch.cat(side).cpu().double() for side in zip(*predictions, strict=True))
        made = made.squeeze(-1)
        errors = made - labels
        squared = interval_of_mean(errors.square(), confidence, most=self._span**2, groups=groups)
        return Utility(
            accuracy=_r2(made, labels, confidence, groups),
            auroc=UNDEFINED_AREA,
            loss=float((WIDTH * errors / self._span).square().mean()) / 2,
            records=len(labels),
            metric=self.metric,
            scores=errors.abs(),
            scored="mean_absolute_error",
            more={
                "mean_absolute_error": interval_of_mean(
                    errors.abs(), confidence, most=self._span, groups=groups
                ),
                "root_mean_squared_error": Interval(
                    **{end: math.sqrt(value) for end, value in vars(squared).items()}
                ),
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


def _r2(made: Tensor, labels: Tensor, confidence: float, groups: Tensor | None) -> Interval:
    squares = (made - labels).square()
    others = max(1, len(labels) - 1)  # of each record: the mean and the spread of those without it
    mean = (labels.sum() - labels) / others
    spread = labels.square().sum() - labels.square() - others * mean.square()
    without = 1 - (squares.sum() - squares) / spread
    return jackknife(r2(made, labels), without, confidence, least=-math.inf, most=1.0, groups=groups)
