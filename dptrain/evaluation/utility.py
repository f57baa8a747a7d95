"""How good a release is at its task, through the interface that it offers."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import one_hot

from dptrain.contracts import Access, Inputs, Release, Splits, Utility
from dptrain.evaluation.costs import by_subgroup, of_enough
from dptrain.tasks import task_of


def measure_utility(release: Release, splits: Splits, *, confidence: float, as_they_are: bool) -> Utility:
    """What the task measures on the test records; of labels alone as if they were certain.

    Calibration is that of confidences which are given away `as_they_are`.
    """
    interface = replace(release, answers=None).queries()  # an average over queries, of which each costs alike
    confidences = Access.CONFIDENCES in release.offers

    def answer(inputs: Inputs) -> Tensor:
        if confidences:
            return interface.confidences(inputs)
        return one_hot(interface.labels(inputs), splits.num_classes).float()

    answers = ((answer(batch.inputs), batch.labels) for batch in splits.test.batches())
    found = task_of(splits).utility(answers, confidence=confidence)
    return replace(
        of_enough(found, splits),
        by_subgroup=by_subgroup(found, splits, confidence),
        calibration=found.calibration if confidences and as_they_are else None,
    )
