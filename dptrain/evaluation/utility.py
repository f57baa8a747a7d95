"""How good a release is at its task, through the interface that it offers."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from dptrain.contracts import Access, Inputs, Release, Splits, Utility
from dptrain.tasks import task_of


def measure_utility(release: Release, splits: Splits, *, confidence: float) -> Utility:
    """What the task measures on the test records; of labels alone as if they were certain."""
    interface = release.queries()

    def answer(inputs: Inputs) -> Tensor:
        if Access.CONFIDENCES in release.offers:
            return interface.confidences(inputs)
        return one_hot(interface.labels(inputs), splits.num_classes).float()

    answers = ((answer(batch.inputs), batch.labels) for batch in splits.test.batches())
    return task_of(splits).utility(answers, confidence=confidence)
