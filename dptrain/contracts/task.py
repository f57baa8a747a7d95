"""What a model is to say of a record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from dptrain.contracts.outcome import Utility

Pairs = Iterable[tuple[Tensor, Tensor]]  # batch by batch: what a model made of records, and their labels


class Task(Protocol):
    """What the labels of records are: the loss of each, what a prediction is, how good predictions are.

    Frozen, and told by its `repr` in the keys of caches.
    """

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str:
        """What `evaluate`, `floor` and `Utility.accuracy` measure; the higher the better."""

    @property
    def of_classes(self) -> bool:
        """Whether labels are classes (n,) int64, outputs their logits and predictions their probabilities."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of a model's output for one record; models are built with the last of it."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each record, of which no other record has a share: (n,)."""

    def predict(self, outputs: Tensor) -> Tensor:
        """What users of the model are told, from its outputs (n, ...)."""

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        """Labels of so many rows that are no record."""

    def mislabelled(self, labels: Tensor, draws: Tensor) -> Tensor:
        """Other labels than these of the same kind, chosen by a uniform number in [0, 1) for each record."""

    def log_likelihood(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """How likely predictions make the labels of their records, finite whatever they are: (n,) float64.

        Attacks compare it among records and among models: what is the same for all of them may be left out.
        """

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        """The metric, and the mean loss, from outputs and labels."""

    def utility(self, predictions: Pairs, *, confidence: float, groups: Tensor | None = None) -> Utility:
        """How good predictions are, with intervals.

        `groups` (n,), given where records of one patient share one, are ids of all records that are
        predicted: those of one group may depend on each other.
        """

    def floor(self, labels: Tensor) -> float:
        """The metric of the best prediction that is the same for every record."""

    def problem(self, labels: Tensor) -> str | None:
        """Why these are no labels of this task, with the cure; no label's value is told."""
