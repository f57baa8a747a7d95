"""Planting records by a coin, before training, so that a reconstruction can be counted right or wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Slots, Splits
from dptrain.evidence.held_out import groups_of, keep_held_out, one_of_each, remaining


@dataclass(frozen=True, kw_only=True)
class Planting:
    """Slots, and the secret of what was planted in them; only the judge of an attack may see `truth`."""

    slots: Slots
    truth: Tensor  # (slots,) the candidate that was trained on
    positions: tuple[int, ...]  # its index among the training records


def plant(
    splits: Splits, *, slots: int, candidates: int, rng: torch.Generator, coins: torch.Generator
) -> tuple[Splits, Planting]:
    """Move one of `candidates` held-out records of each slot, by a fair coin, into the training set.

    Candidates are drawn from the held-out records, which are drawn like those trained on, at most
    one of a patient; all of them, with the rest of their patients' records, leave the held-out
    set, so that no other test mistakes a planted record for a stranger. `rng` chooses candidates,
    `coins` the one that is planted; no attack is shown them.
    """
    groups = groups_of(splits)
    order = one_of_each(torch.randperm(len(splits.holdout), generator=rng), groups)
    needed = slots * candidates
    if needed > len(order) // 2:
        raise ConfigError(
            f"evidence.slots={slots} with evidence.candidates={candidates} needs {needed} held-out records, "
            f"more than half of the {len(order)} there are (one of each patient); choose fewer of either"
        )
    chosen = order[:needed].view(slots, candidates)
    truth = torch.randint(candidates, (slots,), generator=coins)
    planted = splits.holdout.take(chosen[torch.arange(slots), truth]).read()
    start = len(splits.train)
    trained_groups = splits.group_ids
    if trained_groups is not None:
        # Each planted record is a unit of its own, and no other record of its patient is trained on.
        trained_groups = torch.cat([trained_groups, trained_groups.max() + 1 + torch.arange(slots)])
    shown = splits.holdout.take(chosen.flatten()).inputs
    public = Slots(inputs=shown.view(slots, candidates, *splits.shape), labels=splits.holdout.labels[chosen])
    return (
        replace(
            splits,
            train=splits.train.and_more(planted),
            group_ids=trained_groups,
            **keep_held_out(splits, remaining(chosen.flatten(), groups)),
        ),
        Planting(slots=public, truth=truth, positions=tuple(range(start, start + slots))),
    )
