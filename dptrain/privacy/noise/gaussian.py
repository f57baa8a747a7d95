"""Normal numbers from random words, by inversion, in double precision, added to sums on a public grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TAIL = 2.0**-18  # the share of numbers that are far out (beyond 4.62), and take the careful way
LEVELS = 14  # how often a word that is all zeros is followed by another: beyond, a double ends
REACH = math.sqrt(2 * math.log(2) * (63 * (LEVELS + 1) - 53))  # standard deviations; numbers go beyond it too

_MOST = 2**63 - 1


def gaussian(words: Tensor, more: Callable[[int, int], Tensor]) -> Tensor:
    """One standard normal number a word: int64 (n,) to float64 (n,), where the words are.

    A word w stands for the interval (w, w + 1) / 2^63 of (-1, 1), and erfinv takes it to the normal. Far out,
    where doubles near 1 are too coarse, the share beyond is taken instead, to as many more bits as it
    needs, which `more(level, count)` gives: `count` words of a level that counts from 1.
    """
    if words.device.type == "cpu":  # NumPy's calls cost less than PyTorch's
        numbers = torch.from_numpy(np.multiply(words.numpy(), 2.0**-63))
    else:
        numbers = words.to(torch.float64).mul_(2.0**-63)
    low, high = numbers.aminmax() if len(numbers) else (0.0, 0.0)
    far = (numbers.abs() > 1.0 - TAIL).nonzero().squeeze(1) if max(-low, high) > 1.0 - TAIL else ()
    numbers.erfinv_().mul_(math.sqrt(2.0))
    if len(far):
        found = _far(words[far].cpu().numpy(), lambda level, count: more(level, count).cpu().numpy())
        numbers[far] = torch.from_numpy(found).to(numbers.device)
    return numbers


def _far(words: NDArray[np.int64], more: Callable[[int, int], NDArray[np.int64]]) -> NDArray[np.float64]:
    """Normal numbers of the tails: the sign, and the share of both tails beyond, apart."""
    negative = words < 0
    beyond = (np.where(negative, words, ~words) & _MOST).astype(np.float64)  # times 2^63
    unit = 1.0
    for level in range(1, LEVELS + 1):
        unit *= 2.0**-63
        beyond += (more(level, len(words)) & _MOST) * unit
        if level < LEVELS and beyond.min() >= unit * 2.0**53:  # 53 bits each: a double is full
            break
    size = torch.special.ndtri(torch.from_numpy(np.maximum(beyond, unit) * 2.0**-64)).numpy()
    return np.where(negative, size, -size)


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
