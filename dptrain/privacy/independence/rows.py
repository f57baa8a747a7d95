"""Rows that are no record: ordinary ones, extreme ones, and some that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ORDINARY = 8  # rows drawn at random, within the bounds
FAR = 1e4  # how many times the width of the bounds an extreme row lies beyond them


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Made-up inputs, each known by its position; the first `ORDINARY` are drawn within the bounds.

    `extreme` and `poison` (not finite) are those of their kind that the model can take at all; `more` are
    ordinary ones again, to make a batch as long as a side of an input.
    """

    inputs: Tensor
    labels: Tensor
    extreme: tuple[int, ...] = ()
    poison: tuple[int, ...] = ()
    more: tuple[int, ...] = ()


def make_rows(
    shape: tuple[int, ...],
    bounds: tuple[float, float],
    classes: int,
    *,
    more: int,
    whole: bool,
    usable: Callable[[Tensor], bool],
) -> Rows | None:
    """Rows of this shape; `whole` rounds them; `usable` tells whether a model takes an input (1, *shape).

    None where it takes none of those within the bounds.
    """
    rng = torch.Generator().manual_seed(12)
    low, high = bounds
    span = high - low or 1.0
    drawn = low + span * torch.rand(ORDINARY + more, *shape, dtype=torch.float64, generator=rng)
    drawn = drawn.round() if whole else drawn
    mixed = torch.where(torch.rand(1, *shape, generator=rng) < 0.5, low, high).double()
    blank = torch.zeros(1, *shape, dtype=torch.float64)
    if not usable(drawn[:1]):
        return None
    extreme = [blank + low, blank + high, mixed, blank, blank + high + FAR * span, drawn[:1] - FAR * span]
    poison = [] if whole else [blank + torch.nan, blank + torch.inf]
    extreme, poison = ([row for row in rows if usable(row)] for rows in (extreme, poison))
    ends = [ORDINARY, ORDINARY + len(extreme), ORDINARY + len(extreme) + len(poison)]
    count = ends[2] + more
    return Rows(
        inputs=torch.cat([drawn[:ORDINARY], *extreme, *poison, drawn[ORDINARY:]]),
        labels=torch.randint(classes, (count,), generator=rng),
        extreme=tuple(range(ends[0], ends[1])),
        poison=tuple(range(ends[1], ends[2])),
        more=tuple(range(ends[2], count)),
    )
