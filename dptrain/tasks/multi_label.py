"""Several labels: of each of some findings, whether a record has it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from dptrain.contracts import Utility
from dptrain.contracts.task import Pairs
from dptrain.evidence.clusters import of_several, share
from dptrain.evidence.intervals import UNDEFINED_AREA, auc, mean_auc
from dptrain.tasks.means import interval_of_mean

BLIND = 0.5  # the AUROC of a prediction that is the same for every record


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """Labels (n, labels) of 0 and 1, floats; outputs logits of each, predictions its probability.

    The loss of a record is the sum over its labels; its gradient by each output lies between -1 and 1. What
    is measured is the mean of the labels' AUROCs, for where labels are rare it is easy to be right on most.
    `names` are those of the labels, as the report has them.
    """

    name: ClassVar[str] = "multi_label"
    metric: ClassVar[str] = "mean_auroc"
    of_classes: ClassVar[bool] = False

    labels: int
    names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.labels,)

    @property
    def called(self) -> tuple[str, ...]:
        return self.names or tuple(f"label {at}" for at in range(self.labels))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randint(2, (count, self.labels), generator=rng).float()

    def mislabelled(self, labels: Tensor, draws: Tensor) -> Tensor:  # noqa: ARG002
        """Each label turned over."""
        return 1 - labels

    def log_likelihood(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Of all labels of a record together; a probability that is shown as 0 is half the least shown."""
        right = torch.where(labels.bool(), predictions.double(), 1 - predictions.double())
        shown = right[right > 0]
        least = max(1e-30, float(shown.min()) / 2) if len(shown) else 1e-30
        return right.nan_to_num(least).clamp(least, 1.0).log().sum(-1)

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        made, labels = (torch.cat(side).cpu() for side in zip(*outputs, strict=True))
        loss = float(self.loss(made.float(), labels.float()).double().mean())
        differing = _differing(labels)
        if not differing or not bool(made.isfinite().all()):
            return BLIND, loss
        return mean_auc(made[:, differing], labels[:, differing], 0.95).value, loss

    def utility(self, predictions: Pairs, *, confidence: float, groups: Tensor | None = None) -> Utility:
        """The mean of the labels' AUROCs; each of them; the share of right labels, and of records with all.

        A label that all test records have, or none, is left out of the AUROCs. A probability that is no
        number is wrong, and leaves AUROCs and loss undefined.
        """
        groups = of_several(groups)
        made, labels = (torch.cat(side).cpu() for side in zip(*predictions, strict=True))
        finite = made.isfinite()
        right = ((made > 0.5) == labels.bool()) & finite
        differing = _differing(labels) if bool(finite.all()) else []
        found = UNDEFINED_AREA
        if differing:
            found = mean_auc(made[:, differing], labels[:, differing], confidence, groups)
        loss = math.nan
        if bool(finite.all()):
            loss = float(binary_cross_entropy(made.double(), labels.double())) * self.labels
        return Utility(
            accuracy=found,
            auroc=found,
            loss=loss,
            records=len(labels),
            metric=self.metric,
            scores=right.double().mean(-1),
            scored="label_accuracy",
            more={
                "label_accuracy": interval_of_mean(right.double().mean(-1), confidence, groups=groups),
                "all_labels_right": share(right.all(-1), groups, confidence),
            },
            by_class={
                self.called[at]: (
                    auc(made[:, at], labels[:, at].bool(), confidence)
                    if groups is None
                    else mean_auc(made[:, [at]], labels[:, [at]], confidence, groups)
                )
                for at in differing
            },
        )

    def floor(self, labels: Tensor) -> float:  # noqa: ARG002
        """AUROC of saying the same of every record."""
        return BLIND

    def problem(self, labels: Tensor) -> str | None:
        if not labels.is_floating_point() or labels.shape[1:] != (self.labels,):
            return f"are {labels.dtype}, {tuple(labels.shape)}; give floats of shape (N, {self.labels})"
        if bool(((labels != 0) & (labels != 1)).any()):
            return "must be 0 or 1 each; correct them"
        return None


def _differing(labels: Tensor) -> list[int]:
    """The labels that some of these records have and others do not."""
    share = labels.float().mean(0)
    return ((share > 0) & (share < 1)).nonzero().flatten().tolist()
