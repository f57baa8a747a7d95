"""How good a release is at its task, through the interface that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dptrain.contracts import Access, Queries, Ranks, Records, Release, Splits, Utility
from dptrain.evaluation.costs import by_subgroup, of_enough
from dptrain.evaluation.remote_call import RemoteCall
from dptrain.tasks import task_of

AT_ONCE = 1024  # records that are answered together, by one process


def measure_utility(
    release: Release, splits: Splits, *, confidence: float, as_they_are: bool, ranks: Ranks | None = None
) -> Utility:
    """What the task measures on the test records, which `ranks` answer together where they may.

    Of labels alone as if they were certain. Calibration is that of confidences which are given away
    `as_they_are`.
    """
    answers = zip(answered(release, splits, ranks), splits.test.labels.split(AT_ONCE), strict=True)
    # Tasks that others wrote need not know of groups where there are none.
    of_groups = {} if splits.test_group_ids is None else {"groups": splits.test_group_ids}
    found = task_of(splits).utility(answers, confidence=confidence, **of_groups)
    return replace(
        of_enough(found, splits),
        by_subgroup=by_subgroup(found, splits, confidence),
        calibration=found.calibration if as_they_are and Access.CONFIDENCES in release.offers else None,
    )


def answered(release: Release, splits: Splits, ranks: Ranks | None) -> Iterator[Tensor]:
    """What a release says of the test records, batch by batch in their order, bit for bit whoever answers.

    This process alone answers what is one batch, and for a release without weights, which may keep a ledger,
    or which others cannot be told of.
    """
    answer = _Answer(release=replace(release, answers=None), records=splits.test, classes=splits.num_classes)
    batches = range(-(-len(splits.test) // AT_ONCE))
    call = None
    if ranks is not None and not ranks.sharded and release.weights is not None and len(batches) > 1:
        call = RemoteCall.of(answer)
    return map(answer, batches) if ranks is None or call is None else ranks.each(call, batches)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """Answers a batch of records by its number; the model is built once by each process."""

    release: Release
    records: Records
    classes: int

    @cached_property
    def _interface(self) -> Queries:
        return self.release.queries()

    def __call__(self, number: int) -> Tensor:
        rows = torch.arange(number * AT_ONCE, min((number + 1) * AT_ONCE, len(self.records)))
        inputs = self.records.take(rows).inputs
        if Access.CONFIDENCES in self.release.offers:
            return self._interface.confidences(inputs)
        return one_hot(self._interface.labels(inputs), self.classes).float()
