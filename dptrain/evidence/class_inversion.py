"""How to read class inversions: recognisable by another model, and nearer to members than to others?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from dptrain.contracts import DataError, Gallery, Guarantee, Images, Interval, Leakage, Splits
from dptrain.evidence.evaluator import Judge
from dptrain.evidence.intervals import detection_limit, permutation_p_value, proportion
from dptrain.evidence.verdict import LEAKS, NO_CONTROL, RESISTED, TOO_WEAK, reading, verdict

COMPONENTS = 64
LARGEST_SIDE = 32  # larger images are averaged down to this many pixels before they are compared
FITTED_ON = 2000  # test records at most
MOST_COMPARED = 10_000  # members of a class, and as many held-out records


def judge_class_inversion(
    attack: str,
    released: Images,
    control: Images | None,
    untrained: Images,
    splits: Splits,
    judge: Judge,
    guarantee: Guarantee,
    rng: torch.Generator,
    *,
    confidence: float,
    permutations: int,
    interface: str = "",
) -> tuple[list[Leakage], Gallery | None]:
    """Score inversions of the release beside the same attack on the twin and on untrained models.

    `untrained` may hold the outputs of several untrained models one after another: the more, the
    steadier the floor. There is a gallery of images only. Raises DataError where a class has no
    training or no held-out record.
    """
    _require_every_class(splits)
    space = _Space(splits, rng)
    lines = [
        _recognised(released, control, untrained, splits, judge, guarantee, confidence=confidence),
        _near_members(
            released, control, untrained, splits, space, rng, confidence=confidence, permutations=permutations
        ),
    ]
    gallery = _gallery(released, control, splits, space) if len(splits.shape) == 3 else None
    return [replace(line, attack=attack, interface=interface) for line in lines], gallery


def query_curve(
    released: Images, control: Images | None, judge: Judge
) -> tuple[tuple[int, float, float | None], ...]:
    """Success against queries: queries spent, share that the judge recognises, the twin's share.

    Empty for attacks that ask nothing.
    """
    ours = [
        (spent, _share(judge, Images(inputs=inputs, labels=released.labels)))
        for spent, inputs in released.trail
    ]
    if control is None:
        return tuple((spent, share, None) for spent, share in ours)
    theirs = [_share(judge, Images(inputs=inputs, labels=control.labels)) for _, inputs in control.trail]
    return tuple((spent, share, other) for (spent, share), other in zip(ours, theirs, strict=False))


def _require_every_class(splits: Splits) -> None:
    for split, records in (("train", splits.train), ("holdout", splits.holdout)):
        counts = records.labels.bincount(minlength=splits.num_classes).tolist()
        for name, count in zip(splits.classes, counts, strict=True):
            if count == 0:
                raise DataError(
                    f"{split} has no record of class {name!r}: class inversion cannot be judged; "
                    f"make the {split} split larger"
                )


# --------------------------------------------------------------------------- recognisable?


def _recognised(
    released: Images,
    control: Images | None,
    untrained: Images,
    splits: Splits,
    judge: Judge,
    guarantee: Guarantee,
    *,
    confidence: float,
) -> Leakage:
    """Share of inversions that the judge assigns to their class; a class counts as one trial.

    The restarts of one class climb the same function and end alike, right or wrong together:
    an untrained model has all of a class right by luck. Counting images would take that luck for
    evidence.
    """
    classes = splits.num_classes
    means = _class_means(splits)
    mean_images = Images(inputs=means, labels=torch.arange(classes))
    blind = 1 / classes
    untrained_share = _share(judge, untrained)
    floor = max(untrained_share, blind)

    def interval(images: Images) -> Interval:
        return proportion(_share(judge, images) * classes, classes, confidence)

    value, twin = interval(released), None if control is None else interval(control)
    limit = detection_limit(classes, confidence)
    word = verdict(value=value, floor=floor, control=twin, bound=None)
    explained = {
        LEAKS: f"{LEAKS}; recovers what the class looks like (a property of the population, not of a record)",
        TOO_WEAK: f"{TOO_WEAK}: {classes} classes could certify {limit:.0%}, the floor is {floor:.0%}"
        if limit <= floor
        else f"{TOO_WEAK}: the control is not recognised either",
    }
    return Leakage(
        attack="class_inversion",
        metric="evaluator_accuracy",
        value=value,
        floor=floor,
        control=twin,
        bound=None,
        detection_limit=limit,
        verdict=explained.get(word, word),
        trials=classes,
        confidence=confidence,
        notes=(
            "exact interval, one trial a class: the restarts of a class hang together. No bound: "
            f"{_epsilon(guarantee)} limits what is learned of a record, not of a class"
        ),
        details={
            "images": float(len(released.labels)),
            "untrained_accuracy": untrained_share,
            "mean_image_accuracy": _share(judge, mean_images),
            "evaluator_test_accuracy": judge.accuracy,
        },
    )


def _share(judge: Judge, images: Images) -> float:
    return float((judge.classify(images.inputs) == images.labels).double().mean())


def _epsilon(guarantee: Guarantee) -> str:
    return f"epsilon = {guarantee.epsilon():.3g} at delta = {guarantee.delta:.1g}"


# --------------------------------------------------------------------------- nearer to members?


class _Space:
    """Where inputs are compared: principal components of the test records' pixels.

    The test records are in neither of the two sets compared, and no model had a hand in the
    components, so that a member and a held-out record of one class are exchangeable in them.
    Neither the target's features nor the judge's are: each saw one of the two sets.
    """

    def __init__(self, splits: Splits, rng: torch.Generator) -> None:
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


def _near_members(
    released: Images,
    control: Images | None,
    untrained: Images,
    splits: Splits,
    space: _Space,
    rng: torch.Generator,
    *,
    confidence: float,
    permutations: int,
) -> Leakage:
    """Share of inversions whose nearest record is a member, among as many members as held-out records."""
    pools, compared = [], 0
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
        compared += size

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
    twin = None if control is None else test(control)
    level = 1 - confidence
    word = reading(
        above_floor=value.p_value <= level,
        control_above_floor=None if twin is None else twin.p_value <= level,
    )
    same = f"not nearer to members than to held-out records (p = {value.p_value:.2g})"
    explained = {
        LEAKS: f"{LEAKS}; nearer to members than to held-out records (p = {value.p_value:.2g})",
        RESISTED: f"resisted: {same}, the control is",
        TOO_WEAK: f"{TOO_WEAK}: {same}, nor is the control",
        NO_CONTROL: f"{same}, no control",
    }
    details = {
        "p_value": value.p_value,
        "effective_trials": value.effective,
        "untrained_share": floor.interval.value,
        "members_compared": compared / len(splits.train),
    }
    if twin is not None:
        details["control_p_value"] = twin.p_value
    return Leakage(
        attack="class_inversion",
        metric="nearest_is_member",
        value=value.interval,
        floor=0.5,
        control=None if twin is None else twin.interval,
        bound=None,
        detection_limit=detection_limit(value.effective, confidence),
        verdict=explained[word],
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


# --------------------------------------------------------------------------- to look at


def _class_means(splits: Splits) -> Tensor:
    """Mean held-out record of each class: (classes, ...)."""
    total = torch.zeros(splits.num_classes, *splits.shape, dtype=torch.float64)
    for batch in splits.holdout.batches():
        total.index_add_(0, batch.labels, batch.inputs.double())
    counts = splits.holdout.labels.bincount(minlength=splits.num_classes)
    return (total / counts.view(-1, *[1] * len(splits.shape))).float()


def _gallery(released: Images, control: Images | None, splits: Splits, space: _Space) -> Gallery:
    """The most stable inversion of each class beside its control, its class's mean and its nearest member."""
    best = _first_of_each(released, splits.num_classes)
    nearest = []
    for label in range(splits.num_classes):
        members = splits.train.take((splits.train.labels == label).nonzero().squeeze(1))
        mine = space.place(best[label : label + 1])
        distance = torch.cat([torch.cdist(mine, space.place(part.inputs))[0] for part in members.batches()])
        nearest.append(members.take(distance.argmin().view(1)).inputs[0])
    return Gallery(
        classes=splits.classes,
        bounds=splits.bounds,
        released=best,
        control=None if control is None else _first_of_each(control, splits.num_classes),
        mean=_class_means(splits),
        nearest_member=torch.stack(nearest),
    )


def _first_of_each(images: Images, classes: int) -> Tensor:
    return torch.stack([images.inputs[images.labels == label][0] for label in range(classes)])
