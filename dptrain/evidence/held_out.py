"""Held-out units that are put into a training, one record of a patient at most, and copies of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Records, Splits, keyed_uniform


def held_out_units(splits: Splits) -> Tensor:
    """What each held-out record is known by: group ids (records,), or digests (records, 2).

    Raises ConfigError where training records are grouped and held-out ones are not: a patient
    with two of them could come to count as two.
    """
    if splits.group_ids is None:
        return splits.holdout.digests()
    if splits.holdout_group_ids is None:
        raise ConfigError(
            f"data `{splits.name}` groups its training records but not the held-out ones; give "
            "Splits.holdout_group_ids as well, or leave out the attacks that plant records"
        )
    return splits.holdout_group_ids


def one_of_each(splits: Splits, key: bytes) -> tuple[Tensor, Tensor]:
    """A held-out record of each unit, by its place, and the number of the unit of each held-out record.

    Of a patient's records the one whose keyed hash is least: what other patients there are, and where
    the record stands, makes no difference.
    """
    known_by = held_out_units(splits)
    unit_of = first_word(known_by).unique(return_inverse=True)[1]
    order = torch.arange(len(unit_of))
    if splits.group_ids is not None:
        chance = keyed_uniform(key, "record of a patient", splits.holdout.digests())
        order = torch.argsort(chance, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    units = int(unit_of.max()) + 1 if len(unit_of) else 0
    least = torch.full((units,), len(order)).scatter_reduce(0, unit_of, rank, "amin")
    return order[least], unit_of


def once(splits: Splits) -> tuple[Tensor, Tensor]:
    """Whether the inputs of each training, and each held-out, record occur once in all of the data: bool."""
    digests = [first_word(part.digests()) for part in (splits.train, splits.holdout, splits.test)]
    _, which, times = torch.cat(digests).unique(return_inverse=True, return_counts=True)
    train, holdout, _ = (times[which] == 1).split([len(part) for part in digests])
    return train, holdout


def first_word(known_by: Tensor) -> Tensor:
    """Group ids, or the first half of digests (N, 2): (N,) int64; two of 10^7 share one by chance 3e-6."""
    return known_by if known_by.dim() == 1 else known_by[:, 0]


def fresh_ids(groups: Tensor, count: int) -> Tensor:
    """Group ids that none of these groups has: (count,) int64.

    >>> fresh_ids(torch.tensor([1, 2**62]), 3).tolist()
    [0, 2, 3]
    """
    free = torch.arange(len(groups) + count)
    return free[~torch.isin(free, groups)][:count]


def keep_held_out(splits: Splits, places: Tensor) -> dict[str, Any]:
    """What changes in the splits when only these held-out records stay."""
    groups = splits.holdout_group_ids
    return {
        "holdout": splits.holdout.take(places),
        "holdout_group_ids": None if groups is None else groups[places],
    }


def train_on(splits: Splits, records: Records) -> dict[str, Any]:
    """What changes in the splits when these are trained on too, each as a unit of its own."""
    groups = splits.group_ids
    if groups is not None:
        groups = torch.cat([groups, fresh_ids(groups, len(records))])
    return {"train": splits.train.and_more(records), "group_ids": groups}


def without(splits: Splits, positions: Sequence[int]) -> Splits:
    """The same without the training records at these positions."""
    left = torch.ones(len(splits.train), dtype=torch.bool)
    left[torch.tensor(positions, dtype=torch.int64)] = False
    rest = left.nonzero().flatten()
    groups = None if splits.group_ids is None else splits.group_ids[rest]
    return replace(splits, train=splits.train.take(rest), group_ids=groups)


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
