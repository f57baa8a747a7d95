"""Are inversions nearer to members than to held-out records of their class?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dptrain.contracts import Images, Interval, Leakage, Splits
from dptrain.evidence.intervals import detection_limit, permutation_p_value, proportion
from dptrain.evidence.verdict import by_test, reading

COMPONENTS = 64
LARGEST_SIDE = 32  # larger images are averaged down to this many pixels before they are compared
FITTED_ON = 2000  # test records at most
MOST_COMPARED = 10_000  # units of a class that are members, and as many that are held out


class Space:
    """Where inputs are compared: principal components of the test records' pixels.

    The test records are in neither of the two sets compared, and no model had a hand in the
    components, so that a member and a held-out record of one class are exchangeable in them.
    Neither the target's features nor the evaluator's are: each saw one of the two sets.
    """

    def __init__(self, splits: Splits, rng: torch.Generator) -> None:
        from sklearn.decomposition import PCA  # which takes seconds: when a run has trained

        chosen = torch.randperm(len(splits.test), generator=rng)[:FITTED_ON]
        pixels = _pixels(splits.test.take(chosen).inputs)
        seed = int(torch.randint(2**31, (), generator=rng))
        self._pca = PCA(min(COMPONENTS, *pixels.shape), svd_solver="randomized", random_state=seed)
        self._pca.fit(pixels.numpy())

    def place(self, inputs: Tensor) -> Tensor:
        """Coordinates (N, components)."""
        return torch.from_numpy(self._pca.transform(_pixels(inputs).numpy()))


def _pixels(inputs: Tensor) -> Tensor:
    if inputs.dim() == 4 and max(inputs.shape[2:]) > LARGEST_SIDE:
        inputs = F.adaptive_avg_pool2d(inputs, LARGEST_SIDE)
    return inputs.flatten(1).double()


def near_members(
    released: Images,
    control: Images | None,
    untrained: Images,
    splits: Splits,
    space: Space,
    rng: torch.Generator,
    *,
    confidence: float,
    permutations: int,
) -> Leakage:
    """Share of inversions whose nearest record is a member, among as many members as held-out records."""
    pools = _pools(splits, space, rng)
    compared = sum(int(pool.member[pool.unit].sum()) for pool in pools)

    def test(images: Images) -> Nearest:
        return nearest_is_member(
            space.place(images.inputs),
            images.labels,
            pools,
            rng,
            confidence=confidence,
            permutations=permutations,
        )

    value, floor = test(released), test(untrained)
    control_found = None if control is None else test(control)
    level = 1 - confidence
    word = reading(
        above_floor=value.p_value <= level,
        control_above_floor=None if control_found is None else control_found.p_value <= level,
        bounded=False,
    )
    details = {
        "p_value": value.p_value,
        "effective_trials": value.effective,
        "untrained_share": floor.interval.value,
        "members_compared": compared / len(splits.train),
    }
    if control_found is not None:
        details["control_p_value"] = control_found.p_value
    return Leakage(
        attack="class_inversion",
        metric="nearest_is_member",
        value=value.interval,
        floor=0.5,
        control=None if control_found is None else control_found.interval,
        bound=None,
        detection_limit=detection_limit(value.effective, confidence),
        verdict=by_test(
            word,
            value.p_value,
            found="nearer to members than to held-out records",
            not_found="not nearer to members than to held-out records",
        ),
        trials=len(released.labels),
        confidence=confidence,
        notes=(
            f"decided by {permutations} shuffles of membership within each class; nearest in the principal "
            "components of the test records' pixels; as many members as held-out units of each class, so "
            f"{compared} of {len(splits.train)} members are compared; inversions that share a nearest record "
            "count as fewer trials in the interval"
            + (
                "; members of one group are taken as independent, for nobody says whose the held-out are"
                if splits.group_ids is not None and splits.holdout_group_ids is None
                else ""
            )
        ),
        details=details,
    )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What inversions of a class are compared with: records of as many members as of others.

    A unit is a record, or all of the class that share a group: `unit` (records,) is the number of each
    record's, `member` (units,) whether it was trained on.
    """

    records: Tensor  # (records, components)
    unit: Tensor
    member: Tensor


def _pools(splits: Splits, space: Space, rng: torch.Generator) -> list[Pool]:
    """For each class as many members as held-out units, all of their records, and which units are members."""
    of_train, of_holdout = splits.group_ids, splits.holdout_group_ids
    if of_train is None or of_holdout is None:
        of_train, of_holdout = torch.arange(len(splits.train)), torch.arange(len(splits.holdout))
    pools = []
    for label in range(splits.num_classes):
        members = (splits.train.labels == label).nonzero().squeeze(1)
        others = (splits.holdout.labels == label).nonzero().squeeze(1)
        whose, others_whose = (
            groups[places].unique(return_inverse=True)[1]
            for groups, places in ((of_train, members), (of_holdout, others))
        )
        size = min(len(whose.unique()), len(others_whose.unique()), MOST_COMPARED)
        (members, unit), (others, others_unit) = (
            _of_units(places, units, size, rng)
            for places, units in ((members, whose), (others, others_whose))
        )
        records = splits.train.take(members).and_more(splits.holdout.take(others)).inputs
        # A record that is in both sets is equally near twice: its place in line must not decide.
        order = torch.randperm(len(members) + len(others), generator=rng)
        pools.append(
            Pool(
                records=space.place(records)[order],
                unit=torch.cat([unit, size + others_unit])[order],
                member=torch.arange(2 * size) < size,
            )
        )
    return pools


def _of_units(places: Tensor, units: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The places of so many units, which chance draws, and the number of the unit of each: 0, 1, ..."""
    count = int(units.max()) + 1 if len(units) else 0
    turn = torch.empty(count, dtype=torch.int64)
    turn[torch.randperm(count, generator=rng)] = torch.arange(count)
    drawn = turn[units] < size
    return places[drawn], turn[units][drawn]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Share of points whose nearest record is a member, its p-value, how many trials the points are worth."""

    interval: Interval
    p_value: float
    effective: float


def nearest_is_member(
    points: Tensor,
    labels: Tensor,
    pools: list[Pool],
    rng: torch.Generator,
    *,
    confidence: float,
    permutations: int,
) -> Nearest:
    """How often the record nearest to each point, within its class's pool, is a member.

    The null shuffles membership among the units of a class, all records of one patient together; only the
    units whose record some point is nearest to matter, so theirs alone are drawn, one after another without
    replacement.
    """
    successes, squares = 0, 0
    shuffled = torch.zeros(permutations)
    for label, pool in enumerate(pools):
        mine, member = points[labels == label], pool.member
        nearest = torch.cdist(mine, pool.records).argmin(1)
        named, counts = pool.unit[nearest].unique(return_counts=True)
        successes += int(counts[member[named]].sum())
        squares += int(counts.square().sum())
        left = torch.full((permutations,), float(member.sum()))
        for drawn, count in enumerate(counts.tolist()):
            hit = torch.rand(permutations, generator=rng) * (len(member) - drawn) < left
            left -= hit.float()
            shuffled += count * hit
    trials = len(points)
    effective = trials**2 / squares  # Kish 1965: as many trials as distinct records, evenly named
    share = successes / trials
    return Nearest(
        interval=proportion(share * effective, effective, confidence),
        p_value=permutation_p_value(successes, shuffled),
        effective=effective,
    )
