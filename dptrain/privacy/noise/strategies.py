"""Banded Toeplitz strategies, which correlate the noise of steps so that sums over steps have less of it.

A strategy is the first column c (bands,) of a lower triangular Toeplitz matrix C, of length 1. The noise of
step t is what C^-1 makes of independent noise z: w_t = (z_t - c_1 w_{t-1} - ... ) / c_0. Those shipped are
the best for prefix sums (scripts/make_strategies.py): of gradient descent at a constant rate without
momentum.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

FILE = Path(__file__).with_suffix(".json")

Column = NDArray[np.float64]


@cache
def _shipped() -> dict[tuple[int, int], tuple[float, ...]]:
    """Coefficients by the numbers of bands and of steps that they are best for."""
    content: dict[str, list[float]] = json.loads(FILE.read_text())
    return {
        (int(bands), int(steps)): tuple(column)
        for key, column in content.items()
        for bands, steps in [key.split(",")]
    }


MOST_BANDS = 128  # of those that are shipped


def bands_shipped(most: int) -> tuple[int, ...]:
    """The numbers of bands, `most` at most, that there are strategies of; of others they are cut to length.

    >>> bands_shipped(5)
    (1, 2, 3, 4)
    """
    return tuple(sorted({bands for bands, _ in _shipped() if bands <= most}))


def best_for(bands: int, steps: int) -> int:
    """The number of steps of the strategy that is taken for so many: the nearest by ratio."""
    return _nearest(bands, steps)[1]


def _nearest(bands: int, steps: int) -> tuple[int, int]:
    width = min(each for each, _ in _shipped() if each >= bands)
    known = (of for each, of in _shipped() if each == width)
    return width, min(known, key=lambda each: abs(math.log(each / steps)))


def strategy(bands: int, steps: int) -> tuple[float, ...]:
    """The first column c (bands,) of the strategy for so many steps, of length 1; of 1 to MOST_BANDS bands.

    Its mean squared error is at most 1 % above the least there is (0.5 % in its root), but for a few steps.

    >>> strategy(1, 1000)
    (1.0,)
    """
    column = np.asarray(_shipped()[_nearest(bands, steps)][:bands])
    return tuple((column / math.sqrt(float(column @ column))).tolist())


def error_coefficients(column: Column | tuple[float, ...], steps: int) -> Column:
    """The first column of A C^-1 (steps,), A being prefix sums: how each z goes on in all sums after it."""
    impulse = np.zeros(steps)
    impulse[0] = 1.0
    return np.cumsum(lfilter([1.0], np.asarray(column), impulse))


def mean_squared_error(column: Column | tuple[float, ...], steps: int) -> float:
    """Variance of the sum of the first t noises, a mean over t up to `steps`; z has variance 1.

    >>> mean_squared_error((1.0,), 3)
    2.0
    """
    weights = 1.0 - np.arange(steps) / steps
    return float(weights @ error_coefficients(column, steps) ** 2)
