"""Forward and backward passes in bfloat16, in which what a record adds is still its own, bit for bit.

A product is rounded to 8 bits. Were its terms added up in another order where one record is missing, some
results would fall to the other side of such a rounding, and the gradients of all other records would change
by far more than clipping keeps free for rounding. So batches are of one size, filled up with blank rows, and
it is tried before anything is spent that a row comes to the same wherever it stands and whatever stands
beside it. From there on all is as ever: layers' inputs and output gradients are widened, and norms, factors
and sums are of these, in single precision at least.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, Inputs
from dptrain.contracts.trees import by_name, leaves
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.bookkeeping.tape import Layout
from dptrain.privacy.clipping import wide
from dptrain.privacy.gradients import ByRules, RecordLoss

ROWS = 64  # of every batch: few enough to be filled in vain, enough for a GPU to be busy with
TRIED = 16  # rows that are no record
ROUNDED = 1e-5  # of a gradient's length: what single precision may lose of it; bfloat16 loses a thousandfold

SAID = (
    "Forward and backward passes were computed in bfloat16. That a record's gradient does not depend on the "
    "others of its batch was tried on rows that are no record, and is taken to hold for all."
)


class InBfloat16(ByRules):
    """By the rules of layers, in batches of so many records, of which the last are blank."""

    def __init__(
        self, model: nn.Module, loss: RecordLoss, layout: Layout | None = None, *, records: int = ROWS
    ) -> None:
        super().__init__(model, loss, layout)
        self.records = records

    @property
    def rows_at_once(self) -> int:  # type: ignore[override]
        return self.records

    def outputs(self, inputs: Inputs) -> Tensor:
        with torch.autocast(leaves(inputs)[0].device.type, dtype=torch.bfloat16):
            outputs = super().outputs(inputs)
        return wide(outputs)

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        count, rows = len(labels), self.records * copies
        assert count <= rows, "batches are of one size"
        inputs, labels = by_name(lambda some: _filled(some, rows), inputs), _filled(labels, rows)
        loss, shares = self.of_first(count, inputs, labels, copies)
        real = count // copies
        return loss, [
            None if share is None else First(share=share, count=real, of=self.records) for share in shares
        ]


def _filled(some: Tensor, rows: int) -> Tensor:
    """These rows (n, ...) and after them such of zeros: (rows, ...)."""
    return torch.cat([some, some.new_zeros(rows - len(some), *some.shape[1:])])


@dataclass(frozen=True, kw_only=True)
class First:
    """The gradients of the first so many records `of` those that a share has."""

    share: Share
    count: int
    of: int

    @property
    def norms(self) -> Tensor:
        return self.share.norms[: self.count]

    def weighted(self, factors: Tensor, *, zeros: bool = True) -> Tensor:
        if self.count == self.of:
            return self.share.weighted(factors, zeros=zeros)
        return self.share.weighted(_filled(factors, self.of), zeros=True)

    def rows(self) -> Tensor:
        return self.share.rows()[: self.count]


def in_bfloat16(
    ruled: partial[Any],
    model: nn.Module,
    loss: RecordLoss,
    rows: Callable[[int], tuple[Any, Tensor]],
    copies: int,
) -> partial[InBfloat16]:
    """These rules in bfloat16; raises ConfigError where a record's gradient is not its own on this device.

    `rows` makes inputs and labels of so many records that are none.
    """
    records = max(1, ROWS // copies)
    inputs, labels = (
        by_name(lambda some: some.float() if some.is_floating_point() else some, each)
        for each in rows(min(TRIED, records))
    )
    try:
        tried = InBfloat16(copy.deepcopy(model).float(), loss, records=records, **ruled.keywords)
        problem = dependence(tried, inputs, labels, copies)
    except Exception as error:  # whatever a layer says of such numbers
        problem = f"the model does not take it ({type(error).__name__}: {str(error).splitlines()[:1]})"
    if problem:
        raise ConfigError(f"dtype=bfloat16: {problem}; use dtype=float32")
    return partial(InBfloat16, records=records, **ruled.keywords)


def dependence(gradients: InBfloat16, inputs: Inputs, labels: Tensor, copies: int) -> str:
    """How a record's gradient in bfloat16 depends on others or on its place, in words; empty: in no way.

    `inputs` and `labels` are a few rows that are no record. They are taken together, in the opposite order,
    each alone, and as often as a batch holds them.
    """
    count = len(labels) // copies
    batches = [torch.arange(count), torch.arange(count).flip(0), torch.arange(gradients.records) % count]
    batches += [torch.tensor([record]) for record in range(min(count, 4))]
    known: Tensor | None = None
    for batch in batches:
        rows = (batch.unsqueeze(1) * copies + torch.arange(copies)).flatten().to(labels.device)
        _, shares = gradients(by_name(lambda some, at=rows: some[at], inputs), labels[rows], copies)
        found = [share for share in shares if share is not None]
        gradient = torch.cat([share.rows().flatten(1) for share in found], dim=1)
        norms = torch.stack([share.norms for share in found], dim=1).norm(dim=1)
        if bool((gradient.norm(dim=1) > norms * (1 + 100 * ROUNDED)).any()):
            return "a record's gradient is longer than what was measured of it"
        known = gradient if known is None else known
        wanted = known[batch.to(known.device)]
        apart = (gradient - wanted).norm(dim=1)
        if bool((apart > ROUNDED * wanted.norm(dim=1)).any()):
            share_of = float((apart / wanted.norm(dim=1)).nan_to_num().max())
            return (
                f"what a record adds depends on the others of its batch on this device ({share_of:.1g} of it)"
            )
    return ""
