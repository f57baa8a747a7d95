"""Are inversions nearer to members than to held-out records of their class?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dptrain.contracts import Images, Interval, Leakage, Splits
from dptrain.evidence.intervals import detection_limit, permutation_p_value, proportion
from dptrain.evidence.verdict import NO_CONTROL, RESISTED, TOO_WEAK, UNBOUNDED, reading

COMPONENTS = 64
LARGEST_SIDE = 32  # larger images are averaged down to this many pixels before they are compared
FITTED_ON = 2000  # test records at most
MOST_COMPARED = 10_000  # members of a class, and as many held-out records


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
    compared = sum(len(member) // 2 for _, member in pools)

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
        verdict=_explained(word, value.p_value),
        trials=len(released.labels),
        confidence=confidence,
        notes=(
            f"decided by {permutations} shuffles of membership within each class; nearest in the principal "
            "components of the test records' pixels; as many members as held-out records of each class, so "
            f"{compared} of {len(splits.train)} members are compared; inversions that share a nearest record "
            "count as fewer trials in the interval"
        ),
        details=details,
    )


def _pools(splits: Splits, space: Space, rng: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """For each class as many members as held-out records, and whether each is a member."""
    pools = []
    for label in range(splits.num_classes):
        members = (splits.train.labels == label).nonzero().squeeze(1)
        others = (splits.holdout.labels == label).nonzero().squeeze(1)
        size = min(len(members), len(others), MOST_COMPARED)
        members = members[torch.randperm(len(members), generator=rng)[:size]]
        others = others[torch.randperm(len(others), generator=rng)[:size]]
        records = splits.train.take(members).and_more(splits.holdout.take(others)).inputs
        # A record that is in both sets is equally near twice: its place in line must not decide.
        order = torch.randperm(2 * size, generator=rng)
        pools.append((space.place(records)[order], order < size))
    return pools


def _explained(word: str, p_value: float) -> str:
    """The verdict in full."""
    same = f"not nearer to members than to held-out records (p = {p_value:.2g})"
    return {
        UNBOUNDED: f"{UNBOUNDED}; nearer to members than to held-out records (p = {p_value:.2g})",
        RESISTED: f"resisted: {same}, the control is",
        TOO_WEAK: f"{TOO_WEAK}: {same}, nor is the control",
        NO_CONTROL: f"{same}, no control",
    }[word]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Share of points whose nearest record is a member, its p-value, how many trials the points are worth."""

    interval: Interval
    p_value: float
    effective: float


def nearest_is_member(
    points: Tensor,
    labels: Tensor,
    pools: list[tuple[Tensor, Tensor]],
    rng: torch.Generator,
    *,
    confidence: float,
    permutations: int,
) -> Nearest:
    """How often the record nearest to each point, within its class's pool, is a member.

    `pools` holds, for each class, records (n, components) and whether each is a member (n,). The
    null shuffles membership among the records of a class; only the records that some point
    is nearest to matter, so theirs alone are drawn, one after another without replacement.
    """
    successes, squares = 0, 0
    shuffled = torch.zeros(permutations)
    for label, (records, member) in enumerate(pools):
        mine = points[labels == label]
        named, counts = torch.cdist(mine, records).argmin(1).unique(return_counts=True)
        successes += int(counts[member[named]].sum())
        squares += int(counts.square().sum())
        left = torch.full((permutations,), float(member.sum()))
        for drawn, count in enumerate(counts.tolist()):
            hit = torch.rand(permutations, generator=rng) * (len(records) - drawn) < left
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
