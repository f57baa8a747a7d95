"""The size of a model by one number: how many times as wide as its channels, or hidden units, say."""

from __future__ import annotations


def widened(count: int, width: float, *, multiple: int = 1) -> int:
    """`count` channels or units times `width`, as the nearest multiple of `multiple`; never none.

    Groups of a normalisation are a `multiple` that divides what comes of it. At a width of 1 all stays.

    >>> widened(32, 1), widened(32, 0.5), widened(16, 1.6, multiple=4), widened(4, 0.1, multiple=4)
    (32, 16, 24, 4)
    """
    if width == 1:
        return count
    return max(1, round(count * width / multiple)) * multiple
