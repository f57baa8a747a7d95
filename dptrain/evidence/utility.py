"""How good a release is at its task, on test records."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from dptrain.contracts import Records, Utility
from dptrain.evidence.intervals import clopper_pearson


def measure_utility(probabilities: Tensor, test: Records, *, confidence: float) -> Utility:
    """Accuracy with its exact interval, AUROC (macro, one class against the rest) and mean loss.

    A record whose probabilities are no numbers, as where a network's values overflow, is classified wrongly.
    AUROC and loss are undefined then, and the AUROC of a class that is alone in the test records too.
    """
    finite = probabilities.isfinite().all(-1)
    correct = int(((probabilities.argmax(-1) == test.labels) & finite).sum())
    logs = probabilities.double().clamp(min=torch.finfo(torch.float32).tiny).log()
    return Utility(
        accuracy=clopper_pearson(correct, len(test), confidence),
        auroc=_auroc(probabilities.double(), test.labels),
        loss=float(nll_loss(logs, test.labels)),
        records=len(test),
    )


def majority_share(test: Records) -> float:
    """Accuracy of always naming the most frequent class: the floor of any accuracy."""
    return float(test.labels.bincount().max()) / len(test)


def _auroc(probabilities: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import roc_auc_score  # which takes seconds: when a run has trained

    present = labels.unique().tolist()
    if len(present) < 2 or not bool(probabilities.isfinite().all()):
        return math.nan
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in present]
    return float(sum(areas) / len(areas))
