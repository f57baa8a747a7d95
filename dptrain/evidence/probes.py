"""Drawing records of which a coin, before training, decides whether they are trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

from dptrain.contracts import ConfigError, Records, Splits
from dptrain.evidence.held_out import groups_of, keep_held_out, one_of_each, remaining

FEWEST = 20  # probes; from fewer, no attack could be told from guessing


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Probes, and the secret of which are trained on; only the judge of an attack may see `members`.

    `origin` says where each probe stood in the splits that were drawn from: "train 17", "holdout 3".
    """

    probes: Records  # with the labels that they are, or would have been, trained with
    members: Tensor  # (probes,) bool
    positions: tuple[int, ...]  # of the members, in order, among the training records
    mislabelled: Tensor  # (probes,) bool
    origin: tuple[str, ...]

    def known(self, splits: Splits) -> Splits:
        """What an adversary knows who knows everything but the probes: they are no training records here."""
        rest = _others(len(splits.train), torch.tensor(self.positions, dtype=torch.int64))
        groups = None if splits.group_ids is None else splits.group_ids[rest]
        return replace(splits, train=splits.train.take(rest), group_ids=groups)


def draw_probes(
    splits: Splits,
    *,
    probes: int,
    rng: torch.Generator,
    coins: torch.Generator,
    mislabelled: float = 0.0,
    spare: int = 0,
) -> tuple[Splits, Drawing]:
    """Take probes out of training and held-out records; those that a fair coin picks are trained on.

    Half are drawn from the held-out records (at most half of those, and so that `spare` are
    left), the rest from the training records; where records of one patient share a group, all
    are drawn from the held-out ones, one of a patient, whose other records leave the data. A
    record that occurs twice anywhere is never drawn: its double would be a member or a stranger
    in its stead. A share `mislabelled` gets another class's label. Members follow the remaining
    training records. `rng` chooses probes and labels, `coins` the members. Draw before slots are
    planted: the positions of training records change here. Draws fewer probes than asked for
    where there are no more; raises ConfigError below 20.
    """
    train, holdout = _choose(splits, probes, spare, rng)
    drawn, origin, _ = _shuffled(splits, train, holdout, rng)
    labels, wrong = _mislabel(drawn.labels, mislabelled, splits.num_classes, rng)
    drawn = drawn.labelled(labels)
    members = torch.randint(2, (len(drawn),), generator=coins).bool()

    rest = _others(len(splits.train), train)
    trained = int(members.sum())
    groups = splits.group_ids
    if groups is not None:
        groups = torch.cat([groups[rest], groups.max() + 1 + torch.arange(trained)])
    after = replace(
        splits,
        train=splits.train.take(rest).and_more(drawn.take(members.nonzero().flatten())),
        group_ids=groups,
        **keep_held_out(splits, remaining(holdout, groups_of(splits))),
    )
    return after, Drawing(
        probes=drawn,
        members=members,
        positions=tuple(range(len(rest), len(rest) + trained)),
        mislabelled=wrong,
        origin=origin,
    )


def known_members(splits: Splits, *, probes: int, rng: torch.Generator) -> tuple[Drawing, Records]:
    """Probes of a model that was trained elsewhere, and the held-out records that are left.

    No coin decided: as many of its training records as of the held-out ones (at most half of
    those) are drawn, none of which occurs twice. Raises ConfigError below 20.
    """
    train, holdout = _without_double(splits)
    each = min(probes // 2, len(train), len(holdout), len(splits.holdout) // 2)
    _require_enough(probes, each, each)
    train, holdout = _some(train, each, rng), _some(holdout, each, rng)
    drawn, origin, order = _shuffled(splits, train, holdout, rng)
    members = order < each
    return (
        Drawing(
            probes=drawn,
            members=members,
            positions=tuple(train[order[members]].tolist()),
            mislabelled=torch.zeros(len(drawn), dtype=torch.bool),
            origin=origin,
        ),
        splits.holdout.take(_others(len(splits.holdout), holdout)),
    )


def _choose(splits: Splits, probes: int, spare: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of the probes among the training and among the held-out records, at random."""
    train, holdout = _without_double(splits)
    grouped = splits.group_ids is not None
    groups = groups_of(splits)
    holdout = one_of_each(_some(holdout, len(holdout), rng), groups)
    owners = len(groups.unique())
    most = min(owners // 2, max(0, owners - spare), len(holdout))
    from_holdout = min(probes if grouped else -(-probes // 2), most)
    from_train = 0 if grouped else min(probes - from_holdout, len(train))
    half = len(splits.train) // 2
    if from_train > half:
        raise ConfigError(
            f"evidence.probes={probes} would take {from_train} of the {len(splits.train)} training records, "
            f"more than half; choose at most {half + min(half, most)}"
        )
    _require_enough(probes, from_train, from_holdout)
    return _some(train, from_train, rng), holdout[:from_holdout]


def _require_enough(probes: int, from_train: int, from_holdout: int) -> None:
    if from_train + from_holdout < FEWEST:
        cure = "choose more" if probes < FEWEST else "hold out more records"
        raise ConfigError(
            f"evidence.probes={probes}: {from_holdout} held-out and {from_train} training records can be "
            f"probes, fewer than {FEWEST} together; {cure}"
        )


def _some(places: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return places[torch.randperm(len(places), generator=rng)[:count]]


def _shuffled(
    splits: Splits, train: Tensor, holdout: Tensor, rng: torch.Generator
) -> tuple[Records, tuple[str, ...], Tensor]:
    """The records at these places in one random order, where each came from, and the order."""
    order = torch.randperm(len(train) + len(holdout), generator=rng)
    origin = [f"train {place}" for place in train.tolist()]
    origin += [f"holdout {place}" for place in holdout.tolist()]
    drawn = splits.train.take(train).and_more(splits.holdout.take(holdout)).take(order).read()
    return drawn, tuple(origin[place] for place in order.tolist()), order


def _without_double(splits: Splits) -> tuple[Tensor, Tensor]:
    """Places of the training and of the held-out records whose inputs occur once in all of the data."""
    digests = [_digests(part) for part in (splits.train, splits.holdout, splits.test)]
    _, which, times = torch.cat(digests).unique(return_inverse=True, return_counts=True)
    once = (times[which] == 1).split([len(part) for part in digests])
    return once[0].nonzero().flatten(), once[1].nonzero().flatten()


def _digests(records: Records) -> Tensor:
    """A number for each record's inputs, bit for bit: (records,) int64.

    Of ten million records, two that differ share one with a chance of 3e-6, and are then not drawn.
    """
    found = [torch.empty(0, dtype=torch.int64)]
    for batch in records.batches():
        rows = batch.inputs.flatten(1).contiguous().numpy()
        digests = b"".join(blake2b(row, digest_size=8).digest() for row in rows)
        found.append(torch.frombuffer(bytearray(digests), dtype=torch.int64))
    return torch.cat(found)


def _mislabel(labels: Tensor, share: float, classes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give this share of the labels another class each; the labels, and which are wrong: (probes,) bool."""
    chosen = torch.randperm(len(labels), generator=rng)[: round(share * len(labels))]
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[chosen] = True
    away = torch.randint(1, classes, (len(labels),), generator=rng)
    return torch.where(wrong, (labels + away) % classes, labels), wrong


def _others(count: int, chosen: Tensor) -> Tensor:
    """The places below `count` that were not chosen, in order."""
    left = torch.ones(count, dtype=torch.bool)
    left[chosen] = False
    return left.nonzero().flatten()
