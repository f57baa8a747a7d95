"""What privacy costs whom: test records by class and subgroup, the release beside the control model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dptrain.contracts import Cost, Interval, Splits, Subgroup, Utility
from dptrain.evidence.clusters import effective_number, of_several, share
from dptrain.evidence.intervals import variance_of_share
from dptrain.evidence.paired import difference, paired_proportions
from dptrain.tasks import MultiLabel, task_of
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
            value=_mean(utility.scores[chosen], confidence, utility, _of(splits, chosen)),
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
            release=_mean(first[chosen], confidence, release, _of(splits, chosen)),
            control=_mean(second[chosen], confidence, control, _of(splits, chosen)),
            difference=_paired(first[chosen], second[chosen], each, _of(splits, chosen)),
            excess=_excess(first, second, chosen, scored & ~chosen, each, splits),
        )
        for by, name, chosen in parts
    )


def of_enough(utility: Utility, splits: Splits) -> Utility:
    """Utility without the classes that too few test records have to be shown, or the labels, or lack them.

    Rows of the confusion of such classes are added up, by the rule of `pooled`.
    """
    labels, task = splits.test.labels, task_of(splits)
    if isinstance(task, MultiLabel):
        rarest = torch.minimum(labels.sum(0), len(labels) - labels.sum(0)).tolist()
        order = sorted(zip(rarest, task.called, strict=True))
        hidden = {name for count, name in order if count < LEAST}
        if len(hidden) == 1:  # whose AUROC would follow from the others and from their mean
            hidden = {name for _, name in order[:2]}
        shown = {name: area for name, area in utility.by_class.items() if name not in hidden}
        return replace(utility, by_class=shown)
    if not utility.confusion:
        return utility
    names = list(utility.confusion)
    held = [names[label] for label in labels.tolist()]
    of = dict.fromkeys(names, POOLED) | dict(zip(held, pooled(held), strict=True))
    rows: dict[str, Counter[str]] = {}
    for name, row in utility.confusion.items():
        rows.setdefault(of[name], Counter()).update(row)
    few = sum(rows.get(POOLED, Counter()).values()) < LEAST
    return replace(
        utility,
        by_class={name: recall for name, recall in utility.by_class.items() if of[name] != POOLED},
        confusion={name: dict(row) for name, row in rows.items() if name != POOLED or not few},
    )


def pooled(values: Sequence[str], hidden: Collection[str] = ()) -> list[str]:
    """The values of records, those pooled that too few records have to be shown, and those to be `hidden`.

    Were only one left out, what it holds would follow from the rest and from all records together. So the
    next larger one is pooled with it, until nothing of single small ones can be told.

    >>> Counter(pooled(["a"] * 50 + ["b"] * 20 + ["c"] * 3))
    Counter({'a': 50, 'all others': 23})
    """
    small: list[str] = []
    together = 0
    for value, count in sorted(
        Counter(values).items(), key=lambda item: (item[0] not in hidden, item[1], item[0])
    ):
        enough = not small or (together >= LEAST and len(small) > 1)
        if count >= LEAST and enough and value not in hidden:
            break
        small.append(value)
        together += count
    return [POOLED if value in small else value for value in values]


def _subgroups(splits: Splits, scored: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Column, value and which test records have it; nothing of a column in which all are alike.

    Nor do two of them, or a class and one of them, tell of few records by their difference, where one holds
    the other: as a ward and its site.
    """
    kept = scored.nonzero().flatten().tolist()
    columns = {column: [values[at] for at in kept] for column, values in splits.subgroups.items()}
    hidden: dict[str, set[str]] = {column: set() for column in columns}
    classes = [("class", name, chosen) for _, name, chosen in _classes(splits, scored)]
    while True:
        found = [
            each
            for name, values in columns.items()
            for each in _of_column(name, values, hidden[name], scored)
        ]
        finer = _too_close([*found, *classes])
        if finer is None:
            yield from found
            return
        column, name = finer
        left = Counter(each for each in columns[column] if each not in hidden[column])
        hidden[column].add(min(left, key=lambda each: (left[each], each)) if name == POOLED else name)


def _of_column(
    column: str, values: Sequence[str], hidden: Collection[str], scored: Tensor
) -> Iterator[tuple[str, str, Tensor]]:
    shown = pooled(values, hidden)
    names = sorted(set(shown), key=lambda name: (name == POOLED, name))
    for name in names if len(names) > 1 else ():
        chosen = torch.zeros(len(scored), dtype=torch.bool)
        chosen[scored] = torch.tensor([value == name for value in shown])
        yield column, name, chosen


def _too_close(sets: Sequence[tuple[str, str, Tensor]]) -> tuple[str, str] | None:
    """A subgroup that too few records part from another set that holds it, or that it holds a class of."""
    if not sets:
        return None
    member = torch.stack([chosen for *_, chosen in sets]).double()
    size = member.sum(1)
    within = member @ member.T == size[:, None]
    apart = size - size[:, None]
    for inner, outer in (within & (apart > 0) & (apart < LEAST)).nonzero().tolist():
        column, name, _ = sets[inner] if sets[inner][0] != "class" else sets[outer]
        return column, name
    return None


def _classes(splits: Splits, scored: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Classes that enough records have to be shown."""
    labels = splits.test.labels
    if labels.ndim == 1 and not labels.is_floating_point():
        shown = set(pooled([splits.classes[label] for label in labels[scored].tolist()]))
        for label in labels[scored].unique().tolist():
            if splits.classes[label] in shown:
                yield "class", splits.classes[label], scored & (labels == label)


def _excess(
    first: Tensor, second: Tensor, chosen: Tensor, others: Tensor, confidence: float, splits: Splits
) -> Interval | None:
    """How much the difference of these exceeds that of the others, who are drawn independently.

    Where both have records of one patient, what these have in common makes the interval too wide.
    """
    if not bool(others.any()):
        return None
    these, those = (
        _paired(first[part], second[part], confidence, _of(splits, part)) for part in (chosen, others)
    )
    return difference(these, those)


def _of(splits: Splits, chosen: Tensor) -> Tensor | None:
    """The groups of these test records, where they are known."""
    return None if splits.test_group_ids is None else splits.test_group_ids[chosen]


def _mean(scores: Tensor, confidence: float, utility: Utility, groups: Tensor | None) -> Interval:
    """The mean of errors, or of scores of which 1 is the best: exact where each is right or wrong."""
    if utility.scores_are_errors:
        return interval_of_mean(scores, confidence, most=math.inf, groups=groups)
    if bool(((scores == 0) | (scores == 1)).all()):
        return share(scores, groups, confidence)
    least = 0.0 if bool((scores >= 0).all()) else -math.inf
    return interval_of_mean(scores, confidence, least=least, groups=groups)


def _paired(first: Tensor, second: Tensor, confidence: float, groups: Tensor | None) -> Interval:
    """The mean of first minus second, on the same records."""
    apart = first - second
    both = torch.stack([first, second])
    if bool(both.frac().eq(0).all()) and float(apart.abs().max()) <= 1:
        gained, lost = int((apart > 0).sum()), int((apart < 0).sum())
        if (numbers := of_several(groups)) is None:
            return paired_proportions(gained, lost, len(apart), confidence)
        one_more = variance_of_share((gained + lost) / len(apart), int(numbers.max()) + 1)
        each = effective_number(apart, numbers, confidence, one_more=one_more) / len(apart)
        return paired_proportions(each * gained, each * lost, each * len(apart), confidence)
    most = 1.0 if bool(((both >= 0) & (both <= 1)).all()) else math.inf
    return interval_of_mean(apart, confidence, least=-most, most=most, groups=groups)
