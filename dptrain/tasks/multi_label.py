"""Several labels: of each of some findings, whether a record has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from dptrain.contracts import Utility
from dptrain.contracts.task import Pairs
from dptrain.evidence.intervals import clopper_pearson
from dptrain.tasks.means import interval_of_mean


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """Labels (n, labels) of 0 and 1, floats; outputs logits of each, predictions its probability.

    The loss of a record is the mean over its labels, and so is its accuracy.
    """

    name: ClassVar[str] = "multi_label"
    metric: ClassVar[str] = "label_accuracy"

    labels: int

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.labels,)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(outputs, labels, reduction="none").mean(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randint(2, (count, self.labels), generator=rng).float()

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        right = loss = 0.0
        records = 0
        for logits, labels in outputs:
            right += float(((logits > 0) == labels.bool()).float().mean(-1).sum())
            loss += float(self.loss(logits.float(), labels.float()).sum())
            records += len(labels)
        return right / records, loss / records

    def utility(self, predictions: Pairs, *, confidence: float) -> Utility:
        """Share of right labels, by records; AUROC, macro over labels that differ; records with all right.

        A probability that is no number is wrong, and leaves AUROC and loss undefined.
        """
        from sklearn.metrics import roc_auc_score  # which takes seconds: when a run has trained

        made, labels = (torch.cat(side) for side in zip(*predictions, strict=True))
        finite = made.isfinite()
        right = ((made > 0.5) == labels.bool()) & finite
        differing = [at for at in range(self.labels) if len(labels[:, at].unique()) == 2]
        areas = [float("nan")]
        if differing and bool(finite.all()):
            areas = [float(roc_auc_score(labels[:, at], made[:, at].double())) for at in differing]
        loss = float("nan")
        if bool(finite.all()):
            loss = float(binary_cross_entropy(made.double(), labels.double()))
        return Utility(
            accuracy=interval_of_mean(right.double().mean(-1), confidence),
            auroc=sum(areas) / len(areas),
            loss=loss,
            records=len(labels),
            metric=self.metric,
            scores=right.double().mean(-1),
            more={"all_labels_right": clopper_pearson(int(right.all(-1).sum()), len(labels), confidence)},
        )

    def floor(self, labels: Tensor) -> float:
        """Share of right labels where each is always said to be what most records have."""
        share = labels.double().mean(0)
        return float(torch.maximum(share, 1 - share).mean())

    def problem(self, labels: Tensor) -> str | None:
        if not labels.is_floating_point() or labels.shape[1:] != (self.labels,):
            return f"are {labels.dtype}, {tuple(labels.shape)}; give floats of shape (N, {self.labels})"
        if bool(((labels != 0) & (labels != 1)).any()):
            return "must be 0 or 1 each; correct them"
        return None
