"""Rows that are no record: ordinary ones, extreme ones, and some that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import Form, Forms, Inputs
from dptrain.contracts.trees import by_name, parts
from dptrain.contracts.trees import count as count_of

ORDINARY = 8  # rows drawn at random, within the bounds
MadeUp = Callable[[int, torch.Generator], Tensor]  # labels of so many rows that are no record
FAR = 1e4  # how many times the width of the bounds an extreme row lies beyond them


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Made-up inputs, each known by its position; the first `ORDINARY` are drawn within the bounds.

    `extreme` and `poison` (not finite) are those of their kind that the model can take at all; `more` are
    ordinary ones again, to make a batch as long as a side of an input.
    """

    inputs: Inputs
    labels: Tensor
    extreme: tuple[int, ...] = ()
    poison: tuple[int, ...] = ()
    more: tuple[int, ...] = ()


def make_rows(
    forms: Forms, labels: MadeUp, *, more: int, whole: bool, usable: Callable[[Inputs], bool]
) -> Rows | None:
    """Rows of these forms; `whole` rounds them all; `usable` tells whether a model takes one row (1, ...).

    None where it takes none of those within the bounds.
    """
    rng = torch.Generator().manual_seed(12)
    made = by_name(lambda form: _rows(form, rng, more=more, whole=whole), forms)

    def taken(which: Callable[[_Made], Tensor]) -> list[Any]:
        return [row for row in parts(by_name(which, made), 1) if count_of(row) and usable(row)]

    if not usable(by_name(lambda one: one.drawn[:1], made)):
        return None
    extreme, poison = taken(lambda one: one.extreme), taken(lambda one: one.poison)
    ends = [ORDINARY, ORDINARY + len(extreme), ORDINARY + len(extreme) + len(poison)]
    count = ends[2] + more
    first, last = (
        by_name(lambda one, part=part: one.drawn[part], made)
        for part in (slice(ORDINARY), slice(ORDINARY, None))
    )
    return Rows(
        inputs=by_name(lambda *ones: torch.cat(ones), first, *extreme, *poison, last),
        labels=labels(count, rng),
        extreme=tuple(range(ends[0], ends[1])),
        poison=tuple(range(ends[1], ends[2])),
        more=tuple(range(ends[2], count)),
    )


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The rows of one input."""

    drawn: Tensor
    extreme: Tensor
    poison: Tensor


def _rows(form: Form, rng: torch.Generator, *, more: int, whole: bool) -> _Made:
    shape = form.shape
    low, high = form.bounds
    span = high - low or 1.0
    drawn = low + span * torch.rand(ORDINARY + more, *shape, dtype=torch.float64, generator=rng)
    drawn = drawn.round() if whole or form.whole else drawn
    mixed = torch.where(torch.rand(1, *shape, generator=rng) < 0.5, low, high).double()
    blank = torch.zeros(1, *shape, dtype=torch.float64)
    # Whole numbers, such as token ids, stay within their bounds, where other inputs do not.
    far = 0.0 if form.whole else FAR * span
    extreme = [blank + low, blank + high, mixed, blank, blank + high + far, drawn[:1] - far]
    poison = [blank + low, blank + high] if form.whole else [blank + torch.nan, blank + torch.inf]
    poison = [blank[:0]] if whole else poison
    kinds = (drawn, torch.cat(extreme), torch.cat(poison))
    drawn, far_out, not_finite = (rows.long() for rows in kinds) if form.whole else kinds
    return _Made(drawn=drawn, extreme=far_out, poison=not_finite)
