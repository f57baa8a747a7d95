"""Classification: one class a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from dptrain.contracts import Interval, Utility
from dptrain.contracts.assignment import another_label
from dptrain.contracts.task import Pairs
from dptrain.evidence.calibration import calibration
from dptrain.evidence.clusters import of_several, share, widened
from dptrain.evidence.intervals import UNDEFINED_AREA, mean_auc

LEAST = 1e-30  # stands for a probability of zero


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One of some classes: labels (n,) int64, outputs logits (n, classes), predictions probabilities.

    `prior` are declared frequencies of the classes, where they are unequal; `names` are what classes are
    called, their numbers where none are given.
    """

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"
    of_classes: ClassVar[bool] = True

    classes: int
    prior: tuple[float, ...] | None = None
    names: tuple[str, ...] = field(default=(), repr=False)  # which no training depends on

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.classes,)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return make_loss(self.prior)(outputs, labels)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def made_up(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randint(self.classes, (count,), generator=rng)

    def mislabelled(self, labels: Tensor, draws: Tensor) -> Tensor:
        return another_label(labels, draws, self.classes)

    def log_likelihood(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return log_of_label(predictions, labels)

    def evaluate(self, outputs: Pairs) -> tuple[float, float]:
        correct = loss = 0.0
        records = 0
        for logits, labels in outputs:
            correct += float((logits.argmax(-1) == labels).sum())
            loss += float(cross_entropy(logits.float(), labels, reduction="sum"))
            records += len(labels)
        return correct / records, loss / records

    def utility(self, predictions: Pairs, *, confidence: float, groups: Tensor | None = None) -> Utility:
        made, labels = zip(*predictions, strict=True)
        names = self.names or tuple(map(str, range(self.classes)))
        return measure_utility(
            torch.cat(made), torch.cat(labels), confidence=confidence, names=names, groups=groups
        )

    def floor(self, labels: Tensor) -> float:
        """Accuracy of always naming the most frequent class."""
        return float(labels.bincount().max()) / len(labels)

    def problem(self, labels: Tensor) -> str | None:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            return f"are {labels.dtype}, {tuple(labels.shape)}; give int64 of shape (N,)"
        if bool(((labels < 0) | (labels >= self.classes)).any()):
            return f"lie outside 0 ... {self.classes - 1}; correct them, or raise classes"
        return None


def log_of_label(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Logarithm of the probability of each record's class: (n,) float64 from (n, classes)."""
    mine = probabilities.double().gather(1, labels[:, None]).squeeze(1)
    return mine.nan_to_num(LEAST).clamp(min=LEAST).log()


def make_loss(class_prior: Sequence[float] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits (n, classes) and labels (n,), one value a record: (n,).

    With a prior, its logarithm is added to the logits (logit adjustment, Menon et al. 2021), so
    that the model itself learns to weigh classes alike. Weights in the loss would not: clipping
    undoes them. The prior is a declared constant; one counted from the records would leak.

    >>> make_loss((0.5, 0.5))(torch.zeros(1, 2), torch.tensor([0])).item() == torch.tensor(2.0).log().item()
    True
    """
    if class_prior is None:
        return lambda logits, labels: cross_entropy(logits, labels, reduction="none")
    shift = torch.tensor(class_prior).log()
    return lambda logits, labels: cross_entropy(logits + shift.to(logits), labels, reduction="none")


def measure_utility(
    probabilities: Tensor,
    labels: Tensor,
    *,
    confidence: float,
    names: Sequence[str],
    groups: Tensor | None = None,
) -> Utility:
    """Accuracy with its exact interval, AUROC (macro, one class against the rest) with DeLong's, mean loss.

    A record whose probabilities are no numbers, as where a network's values overflow, is classified wrongly.
    AUROC, loss and calibration are undefined then, and the AUROC of a class that is alone in the test records
    too. A class that is not in the test records has no recall, and no share in the balanced accuracy. Where
    records of one of `groups` may depend on each other, intervals are those of fewer records.
    """
    groups = of_several(groups)
    finite = probabilities.isfinite().all(-1)
    surest, named = probabilities.max(-1)
    right = (named == labels) & finite
    logs = probabilities.double().clamp(min=torch.finfo(torch.float32).tiny).log()
    counts = torch.bincount(len(names) * labels[finite] + named[finite], minlength=len(names) ** 2)
    rows = counts.reshape(len(names), len(names)).tolist()
    recalls = {
        name: share(right[labels == label], None if groups is None else groups[labels == label], confidence)
        for label, name in enumerate(names)
        if bool((labels == label).any())
    }
    return Utility(
        accuracy=share(right, groups, confidence),
        auroc=_auroc(probabilities.double(), labels, confidence, groups),
        loss=float(nll_loss(logs, labels)),
        records=len(labels),
        more={"balanced_accuracy": _balanced(tuple(recalls.values()), right, labels, groups)},
        by_class=recalls,
        confusion={name: dict(zip(names, row, strict=True)) for name, row in zip(names, rows, strict=True)},
        calibration=calibration(surest, right, confidence, groups) if bool(finite.all()) else None,
        scores=right.double(),
    )


def _balanced(found: Sequence[Interval], right: Tensor, labels: Tensor, groups: Tensor | None) -> Interval:
    """The mean of the recalls; wider where records of several classes belong to one group."""
    around = _mean(found)
    if groups is None:
        return around
    counts, of_class = torch.bincount(labels).double(), right.double()
    recalls = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, of_class) / counts
    apart = (of_class - recalls[labels]) / counts[labels]
    alone = torch.zeros(len(counts) * (int(groups.max()) + 1), dtype=torch.float64)
    together = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add_(0, groups, apart)
    alone.index_add_(0, labels + len(counts) * groups, apart)
    least = float(alone.square().sum())
    by = math.sqrt(float(together.square().sum()) / least) if least > 0.0 else 1.0
    return widened(around, max(1.0, by), least=0.0, most=1.0)


def _mean(found: Sequence[Interval]) -> Interval:
    """The mean of independent estimates, from their intervals (Zou and Donner 2008)."""
    value = sum(each.value for each in found) / len(found)
    below = math.hypot(*(each.value - each.low for each in found)) / len(found)
    above = math.hypot(*(each.high - each.value for each in found)) / len(found)
    return Interval(value=value, low=value - below, high=value + above)


def _auroc(
    probabilities: Tensor, labels: Tensor, confidence: float, groups: Tensor | None = None
) -> Interval:
    present = labels.unique()
    if len(present) < 2 or not bool(probabilities.isfinite().all()):
        return UNDEFINED_AREA
    return mean_auc(probabilities[:, present], labels[:, None] == present, confidence, groups)
