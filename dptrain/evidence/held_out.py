"""Held-out records that are put into a training: one of each patient at most, none of theirs stays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Splits


def groups_of(splits: Splits) -> Tensor:
    """Whose each held-out record is, (records,); where records are not grouped, each is its own.

    Raises ConfigError where training records are grouped and held-out ones are not: a patient
    with two of them could come to count as two.
    """
    if splits.group_ids is None:
        return torch.arange(len(splits.holdout))
    if splits.holdout_group_ids is None:
        raise ConfigError(
            f"data `{splits.name}` groups its training records but not the held-out ones; give "
            "Splits.holdout_group_ids as well, or leave out the attacks that plant records"
        )
    return splits.holdout_group_ids


def one_of_each(places: Tensor, groups: Tensor) -> Tensor:
    """Of these held-out places the first of each group, in their order.

    >>> one_of_each(torch.tensor([3, 0, 2]), torch.tensor([7, 8, 9, 7])).tolist()
    [3, 2]
    """
    first: dict[int, int] = {}
    for place, group in zip(places.tolist(), groups[places].tolist(), strict=True):
        first.setdefault(group, place)
    return torch.tensor(list(first.values()), dtype=torch.int64)


def remaining(taken: Tensor, groups: Tensor) -> Tensor:
    """The held-out places of groups that none of the taken places belongs to, in order.

    >>> remaining(torch.tensor([0]), torch.tensor([7, 8, 7])).tolist()
    [1]
    """
    return (~torch.isin(groups, groups[taken])).nonzero().flatten()


def keep_held_out(splits: Splits, places: Tensor) -> dict[str, Any]:
    """What changes in the splits when only these held-out records stay."""
    groups = splits.holdout_group_ids
    return {
        "holdout": splits.holdout.take(places),
        "holdout_group_ids": None if groups is None else groups[places],
    }
