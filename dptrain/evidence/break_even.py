"""Until how many answers something that is worse the more it answers is as good as something that is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise


def break_even(curve: Mapping[int, float], flat: float) -> str:
    """The number of answers at which the curve falls below the line, in between by its logarithm.

    >>> break_even({100: 99.0, 1000: 97.0}, 98.0), break_even({100: 90.0}, 98.0), break_even({9: 99.0}, 98.0)
    ('316', 'below 100', 'above 9')
    """
    points = sorted(curve.items())
    if points[0][1] < flat:
        return f"below {points[0][0]:,}"
    for (fewer, high), (more, low) in pairwise(points):
        if low < flat:
            part = (high - flat) / (high - low)
            return f"{math.exp((1 - part) * math.log(fewer) + part * math.log(more)):,.0f}"
    return f"above {points[-1][0]:,}"
