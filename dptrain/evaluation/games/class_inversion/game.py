"""Class inversion: what does a class look like?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from dptrain.config import Evidence
from dptrain.contracts import (
    Attempt,
    DataError,
    Detectable,
    Gallery,
    Game,
    Guarantee,
    Images,
    Leakage,
    Part,
    Scored,
    Scoring,
    Splits,
)
from dptrain.contracts.ranges import Count
from dptrain.evaluation.games.class_inversion.evaluator import Evaluator, load_evaluator, train_evaluator
from dptrain.evaluation.games.class_inversion.near_members import Space, near_members
from dptrain.evaluation.games.class_inversion.recognised import (
    least_p_value,
    most_certified,
    recognised,
    share,
)

TRIED = 10  # steps of the evaluator's training, by which its time is told
FITTED = 2  # test records that the space of class inversions is fitted to, at least


@dataclass(frozen=True, kw_only=True)
class ClassInversion(Game):
    """The attack makes inputs of each class; another model, and the nearest records, tell what they show."""

    untrained: ClassVar[int] = 3  # a single one may favour a class by chance
    findings: ClassVar[type] = Images
    with_two_classes: ClassVar[int] = (
        11  # untrained: two classes have two orders, and 2 * 12 outcomes suffice
    )

    evidence: Evidence
    evaluator_steps: Count = 250  # as runs that were begun before it was a key have it

    def baselines(self, splits: Splits) -> int:
        """Of few classes more, so that a p-value can become small."""
        return self.with_two_classes if splits.num_classes == 2 else self.untrained

    def problems(self, splits: Splits, assigned: Any) -> Iterator[str]:  # noqa: ARG002
        """Inversions are held against members and held-out records of their class, among test records."""
        for part, records in (("training", splits.train), ("holdout", splits.holdout)):
            counts = records.labels.bincount(minlength=splits.num_classes).tolist()
            absent = [name for name, count in zip(splits.classes, counts, strict=False) if not count]
            if absent:
                named = ", ".join(repr(name) for name in absent)
                yield (
                    f"the {part} records hold none of class {named}, so class inversion cannot be judged; "
                    f"give the {part} split records of every class, or leave the attack out"
                )
        if len(splits.test) < FITTED:
            yield (
                f"{len(splits.test)} test records are too few to judge class inversion; give {FITTED} or more"
            )

    def detectable(self, splits: Splits, assigned: Any, guarantee: Guarantee) -> Iterator[Detectable]:  # noqa: ARG002
        classes, name = splits.num_classes, "evaluator_accuracy"
        confidence, permutations = self.evidence.confidence, self.evidence.permutations
        least = least_p_value(classes, self.baselines(splits), permutations=permutations)
        limit = most_certified(classes, least, confidence)
        yield Detectable(attack="", metric=name, trials=classes, limit=limit, floor=1 / classes, bound=None)

    def trial(self, splits: Splits, device: torch.device) -> Part:
        """The training of the evaluator, as far as a few of its steps."""
        few = min(self.evaluator_steps, TRIED)
        some = replace(splits, test=splits.test.take(torch.arange(FITTED)), test_group_ids=None)
        work = partial(train_evaluator, some, torch.Generator().manual_seed(0), steps=few, device=device)
        return Part(work=work, times=self.evaluator_steps / few)

    def score(self, attempt: Attempt[Images], scoring: Scoring) -> Scored:
        evaluator = _evaluator(scoring, self.evaluator_steps)
        lines, gallery = score_class_inversion(
            attempt,
            scoring.splits,
            evaluator,
            scoring.guarantee,
            scoring.streams.seeded("permutations"),
            confidence=self.evidence.confidence,
            permutations=self.evidence.permutations,
        )
        return Scored(
            leakage=lines, gallery=gallery, queries=query_curve(attempt.found, attempt.control, evaluator)
        )


def _evaluator(scoring: Scoring, steps: int) -> Evaluator:
    """The model that recognises class inversions, trained or found when it is first asked for."""
    splits, streams = scoring.splits, scoring.streams
    public = None if splits.public_seen else splits.public
    records = [part.hashed().hexdigest() for part in (splits.holdout, splits.test, public) if part]
    kept = scoring.keep(
        "evaluator",
        (streams.seed, splits.classes, splits.mean, splits.std, splits.shape, records, steps),
        lambda: train_evaluator(
            splits, streams.seeded("judge"), steps=steps, device=scoring.device
        ).state_dict(),
    )
    return load_evaluator(splits, kept, device=scoring.device)


def _together(found: tuple[Images, ...]) -> Images:
    """The images of several attacks as one."""
    return Images(
        inputs=torch.cat([each.inputs for each in found]), labels=torch.cat([each.labels for each in found])
    )


def score_class_inversion(
    attempt: Attempt[Images],
    splits: Splits,
    evaluator: Evaluator,
    guarantee: Guarantee,
    rng: torch.Generator,
    *,
    confidence: float,
    permutations: int,
) -> tuple[list[Leakage], Gallery | None]:
    """Score inversions of the release beside the same attack on the control and on untrained models.

    The more untrained models there are, the steadier the baseline. There is a gallery of images only. Raises
    DataError where a class has no training or no held-out record.
    """
    _require_every_class(splits)
    released, control, untrained = attempt.found, attempt.control, _together(attempt.baseline)
    space = Space(splits, rng)
    near = near_members(
        released, control, untrained, splits, space, rng, confidence=confidence, permutations=permutations
    )
    known = recognised(
        released,
        control,
        attempt.baseline,
        splits,
        evaluator,
        guarantee,
        rng,
        means=_class_means(splits),
        confidence=confidence,
        permutations=permutations,
    )
    gallery = _gallery(released, control, splits, space) if len(splits.shape) == 3 else None
    return [
        replace(line, attack=attempt.attack, interface=attempt.interface) for line in (known, near)
    ], gallery


def query_curve(
    released: Images, control: Images | None, evaluator: Evaluator
) -> tuple[tuple[int, float, float | None], ...]:
    """Success against queries: queries spent, share that the evaluator recognises, the control's share.

    Empty for attacks that ask nothing.
    """
    ours = [
        (spent, share(evaluator, Images(inputs=inputs, labels=released.labels)))
        for spent, inputs in released.trail
    ]
    if control is None:
        return tuple((spent, share, None) for spent, share in ours)
    theirs = [share(evaluator, Images(inputs=inputs, labels=control.labels)) for _, inputs in control.trail]
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


def _class_means(splits: Splits) -> Tensor:
    """Mean held-out record of each class: (classes, ...)."""
    total = torch.zeros(splits.num_classes, *splits.shape, dtype=torch.float64)
    for batch in splits.holdout.batches():
        total.index_add_(0, batch.labels, batch.inputs.double())
    counts = splits.holdout.labels.bincount(minlength=splits.num_classes)
    return (total / counts.view(-1, *[1] * len(splits.shape))).float()


def _gallery(released: Images, control: Images | None, splits: Splits, space: Space) -> Gallery:
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
