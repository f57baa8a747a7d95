"""How good a release is at its task, on test records."""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import nll_loss

from dptrain.contracts import Records, Utility
from dptrain.evidence.intervals import clopper_pearson


def measure_utility(probabilities: Tensor, test: Records, *, confidence: float) -> Utility:
    """Accuracy with its exact interval, AUROC (macro, one class against the rest) and mean loss."""
    correct = int((probabilities.argmax(-1) == test.labels).sum())
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
    present = labels.unique().tolist()
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in present]
    return float(sum(areas) / len(areas))
