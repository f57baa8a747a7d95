"""What privacy costs whom: test records by class and subgroup, the release beside the control model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dptrain.contracts import Cost, Interval, Splits, Subgroup, Utility
from dptrain.evidence.intervals import clopper_pearson
from dptrain.evidence.paired import difference, paired_proportions
from dptrain.tasks.means import interval_of_mean

LEAST = 10  # records of a subgroup that is shown
POOLED = "all others"


def by_subgroup(utility: Utility, splits: Splits, confidence: float) -> tuple[Subgroup, ...]:
    """The mean score on each subgroup of the test records that is large enough to be shown."""
    if utility.scores is None:
        return ()
    scored = ~utility.scores.isnan()
    return tuple(
        Subgroup(
            column=column,
            name=name,
            records=int(chosen.sum()),
            value=_mean(utility.scores[chosen], confidence, utility),
        )
        for column, name, chosen in _subgroups(splits, scored)
    )


def costs(release: Utility, control: Utility, splits: Splits, confidence: float) -> tuple[Cost, ...]:
    """The release beside the control model, on all test records, on each class and on each subgroup.

    Intervals of differences hold for all of these together, by Bonferroni's inequality. Nothing where one of
    the two has diverged, for some records at least: of these it has no scores, though the other has.
    """
    first, second = release.scores, control.scores
    if first is None or second is None:
        return ()
    scored = ~first.isnan()
    if not bool(scored.any()) or not torch.equal(scored, ~second.isnan()):
        return ()
    parts = [("all", "", scored), *_classes(splits, scored), *_subgroups(splits, scored)]
    each = 1 - (1 - confidence) / len(parts)
    return tuple(
        Cost(
            by=by,
            name=name,
            records=int(chosen.sum()),
            release=_mean(first[chosen], confidence, release),
            control=_mean(second[chosen], confidence, control),
            difference=_paired(first[chosen], second[chosen], each),
            excess=_excess(first, second, chosen, scored & ~chosen, each),
        )
        for by, name, chosen in parts
    )


def pooled(values: Sequence[str]) -> list[str]:
    """The values of records, those pooled that too few records have to be shown.

    Were only one left out, what it holds would follow from the rest and from all records together. So the
    next larger one is pooled with it, until nothing of single small ones can be told.

    >>> Counter(pooled(["a"] * 50 + ["b"] * 20 + ["c"] * 3))
    Counter({'a': 50, 'all others': 23})
    """
    small: list[str] = []
    together = 0
    for value, count in sorted(Counter(values).items(), key=lambda item: (item[1], item[0])):
        if count >= LEAST and (not small or together >= LEAST):
            break
        small.append(value)
        together += count
    return [POOLED if value in small else value for value in values]


def _subgroups(splits: Splits, scored: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Column, value and which test records have it; nothing of a column in which all are alike."""
    for column, values in splits.subgroups.items():
        kept = [value for value, there in zip(values, scored.tolist(), strict=True) if there]
        shown, every = pooled(kept), torch.zeros(len(scored), dtype=torch.bool)
        names = sorted(set(shown), key=lambda name: (name == POOLED, name))
        for name in names if len(names) > 1 else ():
            chosen = every.clone()
            chosen[scored] = torch.tensor([value == name for value in shown])
            yield column, name, chosen


def _classes(splits: Splits, scored: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    labels = splits.test.labels
    if labels.ndim == 1 and not labels.is_floating_point():
        for label in labels[scored].unique().tolist():
            yield "class", splits.classes[label], scored & (labels == label)


def _excess(
    first: Tensor, second: Tensor, chosen: Tensor, others: Tensor, confidence: float
) -> Interval | None:
    """How much the difference of these exceeds that of the others, who are drawn independently."""
    if not bool(others.any()):
        return None
    these, those = (_paired(first[part], second[part], confidence) for part in (chosen, others))
    return difference(these, those)


def _mean(scores: Tensor, confidence: float, utility: Utility) -> Interval:
    """The mean of errors, or of scores of which 1 is the best: exact where each is right or wrong."""
    if utility.scores_are_errors:
        return interval_of_mean(scores, confidence, most=math.inf)
    if bool(((scores == 0) | (scores == 1)).all()):
        return clopper_pearson(int(scores.sum()), len(scores), confidence)
    return interval_of_mean(scores, confidence, least=0.0 if bool((scores >= 0).all()) else -math.inf)


def _paired(first: Tensor, second: Tensor, confidence: float) -> Interval:
    """The mean of first minus second, on the same records."""
    apart = first - second
    both = torch.stack([first, second])
    if bool(both.frac().eq(0).all()) and float(apart.abs().max()) <= 1:
        gained, lost = int((apart > 0).sum()), int((apart < 0).sum())
        return paired_proportions(gained, lost, len(apart), confidence)
    most = 1.0 if bool(((both >= 0) & (both <= 1)).all()) else math.inf
    return interval_of_mean(apart, confidence, least=-most, most=most)
