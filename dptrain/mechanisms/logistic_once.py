"""A linear head by ridge logistic regression, released once: what its mechanisms have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from dptrain.contracts import Splits
from dptrain.mechanisms.head_once import Batch, Head, HeadOnce
from dptrain.privacy.exact_moments import refuse_long, rows_of
from dptrain.privacy.one_release import OneRelease
from dptrain.privacy.ridge_logistic import Minimum

Planned = TypeVar("Planned", bound=OneRelease)


@dataclass(frozen=True, kw_only=True)
class LogisticOnce(HeadOnce[Planned, Minimum]):
    """A linear head by multinomial logistic regression with a ridge, whose weight is public."""

    made: ClassVar[type] = Minimum

    def rows(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        """Rows of length 1 at most, labels and weights; raises BrokenGuarantee where one is longer."""
        for features, labels, weights in batches():
            full = torch.ones_like(weights)
            made = rows_of(features, full, norm=self.feature_norm, constant=self.constant)
            refuse_long(made, full, 1.0, f"{self.name}: features")
            yield made, labels, weights

    def offsets(self, splits: Splits) -> Tensor:
        """What is added to logits in training alone: logarithms of declared class frequencies, (outputs,)."""
        prior = splits.class_prior or (1.0 / splits.num_classes,) * splits.num_classes
        return torch.tensor(prior, dtype=torch.float64).log()

    def head(self, made: Minimum, plan: Planned, splits: Splits) -> Head:  # noqa: ARG002
        weight = made.weights[:-1].T * (math.sqrt(1.0 - self.constant) / self.feature_norm)
        return weight, made.weights[-1] * math.sqrt(self.constant)
