"""Teachers on disjoint parts of the records, each a ridge classifier on frozen features, and their votes.

Each teacher is solved by itself, from its own records in their own order: in one batch with the others, sizes
and rounding would depend on how many records those have, and one record could then turn a close vote of a
teacher that never saw it. So what a teacher says depends on its own part to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dptrain.contracts import DoesNotApply, Records, Splits, keyed_uniform
from dptrain.tasks import task_of

LARGEST = 1e6  # of a feature, beyond which it is cut off: products of two stay finite


def refuse_other_tasks(splits: Splits, mechanism: str) -> None:
    """Raise DoesNotApply for data of which teachers cannot learn to vote."""
    if not splits.of_classes or splits.train.names:
        what = "inputs by name" if splits.of_classes else f"labels of {task_of(splits).name}"
        raise DoesNotApply(
            f"mechanism={mechanism}: teachers vote for a class of one tensor of inputs, and data "
            f"`{splits.name}` has {what}; choose mechanism=dpsgd"
        )


def parts_of(records: Records, groups: Tensor | None, teachers: int, key: bytes) -> Tensor:
    """The teacher of each record: (N,) int64, by a hash of its group id, or of its inputs, under the key.

    Whatever other records there are, so that one unit more or less changes the part of one teacher alone.
    """
    units = records.digests() if groups is None else groups
    return (keyed_uniform(key, "teacher", units) * teachers).long()


@torch.no_grad()
def votes(
    train: Records, part: Tensor, asked: Tensor, *, teachers: int, classes: int, ridge: float
) -> Tensor:
    """The class that each teacher names for each input that is asked about: (teachers, questions) int64.

    `train` holds the features of the training records, of which each is in the `part` (N,) of a teacher;
    `asked` are features (questions, ...) of public inputs.
    """
    asked = flat(asked)
    fitted = taught(train, part, teachers=teachers, classes=classes, ridge=ridge)
    return torch.stack([named(asked, *each) for each in fitted])


def counts_of(said: Tensor, classes: int) -> Tensor:
    """How many teachers name each class: votes (teachers, questions) to (questions, classes) float64."""
    return torch.nn.functional.one_hot(said, classes).sum(0).double()


def _places(part: Tensor, teachers: int) -> Iterator[Tensor]:
    """Positions of each teacher's records, in the order of the records."""
    order = torch.argsort(part, stable=True)
    sizes = part.bincount(minlength=teachers).tolist()
    yield from order.split(sizes)


def taught(
    train: Records, part: Tensor, *, teachers: int, classes: int, ridge: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each teacher the mean of its features (d,), its weights (d, classes) and shares (classes,)."""
    for own in _places(part, teachers):
        yield _fitted(train.take(own), classes, ridge)


def named(asked: Tensor, mean: Tensor, weights: Tensor, shares: Tensor) -> Tensor:
    """The class that such a teacher names for features (questions, d): (questions,) int64."""
    return ((asked - mean) @ weights + shares).argmax(1)


def _fitted(own: Records, classes: int, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """A ridge classifier on these records; without any record, one that always says class 0.

    Least squares on one-hot labels, about the means of its own records. The penalty is `ridge` times the
    mean squared length of its features. Solved through products of records, or of features, whichever are
    fewer.
    """
    features, labels = flat(own.inputs), torch.nn.functional.one_hot(own.labels, classes).double()
    if len(own) == 0:
        wide = features.shape[1]
        return features.new_zeros(wide), features.new_zeros(wide, classes), labels.new_zeros(classes)
    mean, share = features.mean(0), labels.mean(0)
    features, labels = features - mean, labels - share
    penalty = ridge * max(float(features.square().sum(1).mean()), torch.finfo(torch.float64).tiny)
    if len(features) <= features.shape[1]:
        weights = features.T @ _solved(features @ features.T, labels, penalty)
    else:
        weights = _solved(features.T @ features, features.T @ labels, penalty)
    return mean, weights, share


def _solved(square: Tensor, right: Tensor, penalty: float) -> Tensor:
    square.diagonal().add_(penalty)
    solved, _ = torch.linalg.solve_ex(square, right)  # what cannot be solved is one teacher's vote, no error
    return solved


def flat(features: Tensor) -> Tensor:
    """Features (N, ...) as rows in double precision; what is no number counts as zero."""
    rows = features.detach().cpu().double().flatten(1)
    return rows.nan_to_num(nan=0.0, posinf=LARGEST, neginf=-LARGEST).clamp(-LARGEST, LARGEST)
