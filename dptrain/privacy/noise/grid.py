"""A sum and its noise, rounded to one public grid."""

from __future__ import annotations

import math

from torch import Tensor

FINENESS = 64  # grid steps to a standard deviation, at least; less than twice as many
LARGEST = 2.0**51  # in grid steps, of a sum: whole numbers beyond 2^53 are not exact


def grid_step(std: float) -> float:
    """The grid's step for noise of this standard deviation: the largest power of two up to a 64th of it.

    Rounding adds at most a variance of step^2 / 12, which is 2e-5 of the noise's own.

    >>> grid_step(1.0), grid_step(0.9)
    (0.015625, 0.0078125)
    """
    return 2.0 ** math.floor(math.log2(std / FINENESS))


def noisy_on_grid(sums: Tensor, numbers: Tensor, std: float) -> Tensor:
    """`sums` + `std` * `numbers`, float64, each rounded to the nearest multiple of the grid's step.

    Rounding what is already noised is post-processing and costs nothing. The sum is split into a
    multiple k of the step and a rest of at most half a step, both exact, as the step is a power of two;
    the noise is added to the rest, and k to what that rounds to. So no rounding depends on how
    large the sum is, and any two sums reach the same outcomes. Sums beyond 2^51 steps, which clipping
    rules out, are cut off there; one that is no number counts as zero. `sums` is overwritten.
    """
    step = grid_step(std)
    sums.mul_(1.0 / step)
    if len(sums):
        low, high = sums.aminmax()  # no number, if one is none
        if not (low >= -LARGEST and high <= LARGEST):
            sums.nan_to_num_(nan=0.0, posinf=LARGEST, neginf=-LARGEST).clamp_(-LARGEST, LARGEST)
    whole = sums.round()
    return sums.sub_(whole).add_(numbers, alpha=std / step).round_().add_(whole).mul_(step)
