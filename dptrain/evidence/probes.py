"""Probes: records of which a random choice, before training, decides whether they are trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dptrain.contracts import Assigned, ConfigError, Context, Records, Splits, keyed_uniform
from dptrain.contracts.assignment import another_label
from dptrain.evidence.held_out import held_out_units, keep_held_out, once, one_of_each, train_on

FEWEST = 20  # probes; from fewer, no attack could be told from guessing


@dataclass(frozen=True, kw_only=True)
class ProbeAssignment(Assigned):
    """Probes, and the secret of which are trained on; only the scoring of an attack may see `members`.

    `origin` says where each probe stood in the splits that were drawn from: "train 17", "holdout 3".
    """

    probes: Records  # with the labels that they are, or would have been, trained with
    members: Tensor  # (probes,) bool
    positions: tuple[int, ...]  # of the members, in order, among the training records
    mislabelled: Tensor  # (probes,) bool
    origin: tuple[str, ...]
    expected: int | None = None  # by hashes, from public numbers; None: files say who was trained on

    @property
    def change(self) -> str:
        return (
            ""
            if self.expected is None
            else ". The chances of becoming a probe are computed from the numbers of units, rounded to two "
            "binary digits, which are public thereby"
        )

    def enter(self, context: Context) -> Context:
        return replace(context, probed=self.positions)

    def described(self) -> dict[str, int | None]:
        half = None if self.expected is None else self.expected // 2
        return {"probes": self.expected, "probes_trained_on": half}


def draw_probes(
    splits: Splits,
    *,
    probes: int,
    key: bytes,
    mislabelled: float = 0.0,
    spare: int = 0,
    units: int | None = None,
) -> tuple[Splits, ProbeAssignment]:
    """Take probes out of training and held-out records; those that a fair choice picks are trained on.

    About `probes` are drawn, each record by a keyed hash of its inputs and with a chance that is constant
    (`chances`): whether it is a probe, whether it is trained on, and under which label, does not depend on
    what other records there are. Half come from the held-out records (at most half of those, and so that
    about `spare` are left), the rest from the training records; where records of one patient share a
    group, all come from the held-out ones, a record of each patient by a hash of the patient's id, whose
    other records leave the data. A share `mislabelled` gets another class's label. A record that
    occurs twice anywhere is assigned as well, but is left out of the drawing, and so of all that is
    scored: its double would be a member or a non-member in its stead.

    Members follow the remaining training records. Draw before slots are planted: the positions of
    training records change here. `units` is the declared number of training units, None: the number that
    there are, to two binary digits. How many can be scored is left to chance: fewer than 20 are no use.
    """
    of_train, of_holdout, ids, probed, expected = _choose(splits, probes, spare, units, key)
    order = torch.argsort(keyed_uniform(key, "order of the probes", ids))
    ids = ids[order]
    drawn = splits.train.take(of_train).and_more(splits.holdout.take(of_holdout)).take(order).read()
    single = torch.cat([flags[at] for flags, at in zip(once(splits), (of_train, of_holdout), strict=True)])
    single = single[order]

    wrong = keyed_uniform(key, "mislabelled", ids) < mislabelled
    labels, draws = drawn.labels, keyed_uniform(key, "wrong label", ids)
    if splits.task is None:
        others = another_label(labels, draws, splits.num_classes)
    else:
        others = splits.task.mislabelled(labels, draws)
    labels = labels.clone()
    labels[wrong] = others[wrong]
    drawn = drawn.labelled(labels)
    members = keyed_uniform(key, "member", ids) < 0.5

    rest = _others(len(splits.train), of_train)
    groups = splits.group_ids
    remaining = replace(
        splits, train=splits.train.take(rest), group_ids=None if groups is None else groups[rest]
    )
    trained = torch.cat([(members & ~single).nonzero().flatten(), (members & single).nonzero().flatten()])
    start = len(rest) + int((members & ~single).sum())
    after = replace(
        remaining,
        **train_on(remaining, drawn.take(trained)),
        **keep_held_out(splits, (~probed).nonzero().flatten()),
    )
    scored = single.nonzero().flatten()
    return after, ProbeAssignment(
        probes=drawn.take(scored),
        members=members[scored],
        positions=tuple(range(start, len(after.train))),
        mislabelled=wrong[scored],
        origin=_origin(of_train, of_holdout, order[scored]),
        expected=expected,
    )


def _choose(
    splits: Splits, probes: int, spare: int, units: int | None, key: bytes
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Places of the probes among training and held-out records, their ids, who leaves the held-out, and how
    many are expected."""
    grouped = splits.group_ids is not None
    places, _ = one_of_each(splits, key)
    chance = chances(splits, probes, held_out=len(places), spare=spare, units=units)
    known_by = held_out_units(splits)
    probed = keyed_uniform(key, "probe", known_by) < chance.holdout
    # Of a patient one record; of records, that are each a unit, every copy.
    of_holdout = (places[probed[places]] if grouped else probed.nonzero().flatten()).sort().values
    of_train = torch.empty(0, dtype=torch.int64)
    ids = known_by[of_holdout]
    if not grouped:
        known = splits.train.digests()
        of_train = (keyed_uniform(key, "probe", known) < chance.train).nonzero().flatten()
        ids = torch.cat([known[of_train], ids])
    return of_train, of_holdout, ids, probed, chance.expected


@dataclass(frozen=True, kw_only=True)
class Chances:
    """With what chance a record becomes a probe: constants of a training, whatever single records it has."""

    train: float
    holdout: float
    expected: int  # probes


def chances(
    splits: Splits, probes: int, *, held_out: int, spare: int = 0, units: int | None = None
) -> Chances:
    """The chances by which about `probes` are drawn, from public numbers alone.

    Those are the declared number of training `units`, or else the number of training records to two
    binary digits, and likewise the number of `held_out` units. Raises ConfigError where more than half
    of the training records would be probes.
    """
    trained_on = public_count(len(splits.train)) if units is None else units
    others = public_count(held_out)
    # Counts may be a fifth below what is public of them.
    most = min(0.5, max(0.0, 1.0 - spare / (0.8 * others)))
    grouped = splits.group_ids is not None
    if grouped and most * others < FEWEST <= others / 2:  # all must come from here: they take their half
        most = 0.5
    holdout = min(most, (probes if grouped else probes / 2) / others)
    train = 0.0 if grouped else (probes - holdout * others) / trained_on
    if train > 0.5:
        raise ConfigError(
            f"evidence.probes={probes} would take about {round(train * trained_on)} of about {trained_on} "
            f"training records, more than half; choose at most {int(trained_on / 2 + holdout * others)}"
        )
    return Chances(train=train, holdout=holdout, expected=round(train * trained_on + holdout * others))


def public_count(count: int) -> int:
    """A count rounded to two binary digits (1, 2, 3, 4, 6, 8, 12, ...): one that is told as public.

    Another record changes it at few counts only, and the chances that are computed from it with it.

    >>> [public_count(count) for count in (1, 5, 60, 443, 444, 1258)]
    [1, 6, 64, 384, 512, 1536]
    """
    if count < 2:
        return max(1, count)
    power = 1 << (count.bit_length() - 1)
    steps = (power, power + power // 2, 2 * power)
    return min(steps, key=lambda step: abs(math.log(count / step)))


def known_members(splits: Splits, *, probes: int, rng: torch.Generator) -> tuple[Splits, ProbeAssignment]:
    """Probes of a model that was trained elsewhere, and the splits with the held-out records that are left.

    Nothing was assigned: as many of its training records as of the held-out ones (at most half of
    those) are drawn, none of which occurs twice. Where records of one patient share a group, one record of
    each patient is drawn at most, and at most half of the held-out patients, whose other records leave the
    data: scores of one patient's records depend on each other, and each must count once.
    """
    grouped = splits.group_ids is not None
    known_by = held_out_units(splits) if grouped else None
    of_train, of_holdout = (single.nonzero().flatten() for single in once(splits))
    train, holdout = _in_turn(of_train, splits.group_ids, rng), _in_turn(of_holdout, known_by, rng)
    units = len(splits.holdout) if known_by is None else len(known_by.unique())
    each = min(probes // 2, len(train), len(holdout), units // 2)
    train, holdout = train[:each], holdout[:each]
    order = torch.randperm(2 * each, generator=rng)
    members = order < each
    assigned = ProbeAssignment(
        probes=splits.train.take(train).and_more(splits.holdout.take(holdout)).take(order).read(),
        members=members,
        positions=tuple(train[order[members]].tolist()),
        mislabelled=torch.zeros(2 * each, dtype=torch.bool),
        origin=_origin(train, holdout, order),
    )
    left = _others(len(splits.holdout), holdout)
    if known_by is not None:
        left = (~torch.isin(known_by, known_by[holdout])).nonzero().flatten()
    return replace(splits, **keep_held_out(splits, left)), assigned


def _in_turn(places: Tensor, groups: Tensor | None, rng: torch.Generator) -> Tensor:
    """These places in a random order, of each group the one that comes first in another random order."""
    if groups is not None:
        places = places[torch.randperm(len(places), generator=rng)]
        _, which = groups[places].unique(return_inverse=True)
        count = int(which.max()) + 1 if len(which) else 0
        turns = torch.arange(len(places))
        first = torch.full((count,), len(places)).scatter_reduce(0, which, turns, "amin")
        places = places[first]
    return places[torch.randperm(len(places), generator=rng)]


def _origin(train: Tensor, holdout: Tensor, order: Tensor) -> tuple[str, ...]:
    """Where each of these records came from, in this order of them all."""
    origin = [f"train {place}" for place in train.tolist()]
    origin += [f"holdout {place}" for place in holdout.tolist()]
    return tuple(origin[place] for place in order.tolist())


def _others(count: int, chosen: Tensor) -> Tensor:
    """The places below `count` that were not chosen, in order."""
    left = torch.ones(count, dtype=torch.bool)
    left[chosen] = False
    return left.nonzero().flatten()
