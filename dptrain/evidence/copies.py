"""Copies of a record among those trained on and elsewhere, which "one record" does not make one think of."""

from __future__ import annotations

import torch
from torch import Tensor

from dptrain.contracts import Splits
from dptrain.evidence.held_out import first_word


def count_copies(splits: Splits) -> dict[str, int]:
    """How many records have the inputs of a training record, bit for bit, whatever their labels.

    `train`: training records with a copy that belongs to another unit; `holdout` and `test`: records there
    that are trained on as well. Counts of records: for their owner, and for nobody else.
    """
    train, holdout, test = (
        first_word(part.digests()) for part in (splits.train, splits.holdout, splits.test)
    )
    return {
        "train": int(_in_several_units(train, splits.group_ids).sum()),
        "holdout": int(torch.isin(holdout, train).sum()),
        "test": int(torch.isin(test, train).sum()),
    }


def _in_several_units(inputs: Tensor, groups: Tensor | None) -> Tensor:
    """Whether each of these inputs occurs in more than one unit: bool."""
    _, which = inputs.unique(return_inverse=True)
    owners = torch.arange(len(inputs)) if groups is None else groups.unique(return_inverse=True)[1]
    pairs = (which * (len(inputs) + 1) + owners).unique()
    return (pairs // (len(inputs) + 1)).bincount()[which] > 1
