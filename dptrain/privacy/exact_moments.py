"""Second moments of clipped rows, summed exactly, and noise on them from the project's own source.

Rows are rounded towards zero to multiples of 2^-16, so that their products are multiples of 2^-32 and the
sums of up to 2^21 records, which are 2^21 at most, are exact in double precision, in whatever order: a record
more or less moves them by just what the record itself is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dptrain.contracts import BrokenGuarantee, DoesNotApply, Splits
from dptrain.privacy.moments import MomentsPlan

STEP = 2.0**-16  # of a row's grid
MOST_RECORDS = 2**21
# Rows are this much shorter than claimed, which leaves room for the rounding of an eigenvalue.
ROOM = 1.0 - 2.0**-10


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over records: of z z', (d, d), symmetric, and of z y', (d, outputs); both float64.

    `eigenvalue` is the smallest of the first; None: not asked for.
    """

    second: Tensor
    cross: Tensor
    eigenvalue: Tensor | None = None  # ()


def rows_of(features: Tensor, weights: Tensor, *, norm: float, constant: float) -> Tensor:
    """Rows (n, d + 1) of features (n, d): clipped to `norm`, over it, and a constant; on the grid, float64.

    The squared length of each is its weight (n,) at most, of which the constant takes the share `constant`. A
    record of which a number is not finite is all zeros.
    """
    features = features.double()
    finite = features.isfinite().all(1)
    features = features.where(finite[:, None], 0.0)
    largest = features.abs().amax(1, keepdim=True).clamp(min=1e-300)  # squares of large numbers overflow
    lengths = largest * (features / largest).norm(dim=1, keepdim=True)
    shape = features / lengths.clamp(min=norm) * math.sqrt(1.0 - constant)
    rows = torch.cat([shape, torch.full_like(lengths, math.sqrt(constant))], dim=1)
    return _on_grid(rows * (ROOM * weights.double().sqrt() * finite)[:, None])


def targets_of(labels: Tensor, weights: Tensor, *, classes: int) -> Tensor:
    """Indicators of classes less 1 / classes, (n, classes), each to the root of its weight; on the grid."""
    shifted = torch.nn.functional.one_hot(labels, classes).double() - 1.0 / classes
    return _on_grid(shifted * (ROOM * weights.double().sqrt())[:, None])


def label_norm(classes: int) -> float:
    """The length of such an indicator.

    >>> label_norm(2) == 0.5**0.5
    True
    """
    return math.sqrt(1.0 - 1.0 / classes)


def _on_grid(rows: Tensor) -> Tensor:
    return rows.div_(STEP).trunc_().mul_(STEP)


def summed(batches: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]], plan: MomentsPlan) -> Moments:
    """The moments of rows, targets and weights, batch by batch, on the CPU; exact.

    Raises BrokenGuarantee where a row is longer than its weight allows.
    """
    second, cross, records = torch.zeros(()), torch.zeros(()), 0
    for rows, targets, weights in batches():
        records += len(rows)
        assert records <= MOST_RECORDS, "more are refused before anything is paid for"
        refuse_long(rows, weights, 1.0, "mechanism=sufficient_statistics: features")
        refuse_long(targets, weights, plan.label_norm, "mechanism=sufficient_statistics: labels")
        second, cross = second + rows.T @ rows, cross + rows.T @ targets
    assert second.dim() == 2, "there are training records"
    smallest = torch.linalg.eigvalsh(second)[0] if plan.eigenvalue_std is not None else None
    return Moments(second=second, cross=cross, eigenvalue=smallest)


def refuse_many(splits: Splits, mechanism: str) -> None:
    """Raise DoesNotApply for more records than are added up exactly."""
    if len(splits.train) > MOST_RECORDS:
        raise DoesNotApply(
            f"{mechanism} adds up {MOST_RECORDS:,} records exactly, and data `{splits.name}` has "
            "more; use mechanism=dpsgd"
        )


def refuse_long(rows: Tensor, weights: Tensor, norm: float, what: str) -> None:
    """Raise BrokenGuarantee where a row (n, d) is longer than `norm` by its weight (n,) allows.

    Exact: squares are multiples of 2^-32, as are their sums.
    """
    if bool((rows.square().sum(1) > norm**2 * weights.double()).any()):
        raise BrokenGuarantee(
            f"{what} of a record are longer than they were clipped to, so "
            "the release would not be as private as its guarantee says. Nothing is released; report the "
            "run to the maintainers"
        )


def noised(
    moments: Moments, plan: MomentsPlan, add: Callable[[list[Tensor], float], list[Tensor]]
) -> Moments:
    """The moments with the noise that the plan claims, `add`ed to sums by their standard deviation.

    Second moments stay symmetric: what stands twice is noised once. Entries above the diagonal count twice
    in the length of the matrix, so that their noise is that of the diagonal over the root of 2.
    """
    eigenvalue = moments.eigenvalue
    if eigenvalue is not None:
        assert plan.eigenvalue_std is not None
        (eigenvalue,) = add([eigenvalue], plan.eigenvalue_std)
    second = noisy_symmetric(moments.second, plan.second_std, add)
    (cross,) = add([moments.cross], plan.cross_std)
    return Moments(second=second, cross=cross, eigenvalue=eigenvalue)


def noisy_symmetric(second: Tensor, std: float, add: Callable[[list[Tensor], float], list[Tensor]]) -> Tensor:
    """A symmetric matrix with noise of this standard deviation on its diagonal, and beside it of less."""
    above = tuple(torch.triu_indices(len(second), len(second), 1))
    (diagonal,) = add([second.diagonal()], std)
    (upper,) = add([second[above]], std / math.sqrt(2.0))
    noisy = torch.zeros_like(second)
    noisy[above] = upper
    return noisy + noisy.T + torch.diag(diagonal)


def summed_squares(batches: Iterable[tuple[Tensor, Tensor, Tensor]], what: str) -> Tensor:
    """The exact sum of z z' over rows z, batch by batch; raises BrokenGuarantee where one is too long."""
    second, records = torch.zeros(()), 0
    for rows, _, weights in batches:
        records += len(rows)
        assert records <= MOST_RECORDS, "more are refused before anything is paid for"
        refuse_long(rows, weights, 1.0, what)
        second = second + rows.T @ rows
    return second


def draws(size: int, outputs: int) -> int:
    """How many numbers are noised at most, of rows of this size.

    >>> draws(3, 2)
    13
    """
    return 1 + size * (size + 1) // 2 + size * outputs
