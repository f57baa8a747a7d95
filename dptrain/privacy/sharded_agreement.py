"""Whether the rules' gradients are those of plain autograd, of a model that no process has as a whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dptrain.contracts import ConfigError
from dptrain.contracts.trees import by_name, parts
from dptrain.contracts.trees import count as count_of
from dptrain.privacy.agreement import EXACT, ROUGH, ROWS, not_its_own
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.bookkeeping.tape import Layout
from dptrain.privacy.bookkeeping.uses import NoRule
from dptrain.privacy.clipping import Clipper, left_out
from dptrain.privacy.gradients import ByRules, Gradients, RecordLoss, trained
from dptrain.privacy.made_up import MadeUp
from dptrain.privacy.sharded import held, rows_of
from dptrain.privacy.stilled import stilled


def layout_of(model: nn.Module, loss: RecordLoss, rows: MadeUp) -> tuple[Layout, bool]:
    """Where the records of each layer's output lie, and whether the model draws random numbers.

    Only shapes are computed, of a copy without values. Raises ConfigError where they tell nothing.
    """
    shapes, drawn = [], False
    try:
        module = ByRules(copy.deepcopy(model).to("meta"), loss).module
        for count in ROWS:
            inputs = by_name(lambda each: each.to("meta"), rows.rows(count)[0])
            with stilled() as draws, module.looking(count_of(inputs)) as tape:
                module(inputs)
            shapes.append(tape.shapes)
            drawn = drawn or bool(draws)
        return Layout.of(shapes[0], shapes[1], (ROWS[0] * rows.copies, ROWS[1] * rows.copies)), drawn
    except NoRule as problem:
        raise ConfigError(
            f"performance.sharding=fsdp2 needs layers of which a rule tells single gradients: {problem}; use "
            "performance.sharding=none"
        ) from problem


class ShardedTrial:
    """Gradients of rows that are no record, by the rules and by plain autograd, one row after the other.

    All processes make the same calls, with the same rows.
    """

    def __init__(self, model: nn.Module, loss: RecordLoss, rules: Gradients, clipping: str) -> None:
        self.model, self.loss, self.rules, self.clipping = model, loss, rules, clipping
        self.names = list(trained(model))
        self.parameters = list(trained(model).values())

    def wrong(self, rows: MadeUp, *, draws: bool) -> str:
        """The parameter whose gradients differ by more than rounding, in words; empty: none."""
        count = ROWS[0]
        with self._elsewhere(), stilled() if draws else nullcontext():
            inputs, labels = rows.rows(count)
            alone = zip(parts(inputs, rows.copies), labels.split(rows.copies), strict=True)
            expected = [self._plainly(one, label, rows.copies) for one, label in alone]
            _, shares = self.rules(inputs, labels, rows.copies)
            return self._differs(shares, [torch.stack(each) for each in zip(*expected, strict=True)])

    def _plainly(self, inputs: object, labels: Tensor, copies: int) -> list[Tensor]:
        """What this process holds of one row's gradient, a part a parameter."""
        (self.loss(self.model(inputs), labels).sum() / copies).backward()
        size = dist.get_world_size()  # all add up the same
        found = [
            torch.zeros_like(held(each)) if each.grad is None else held(each.grad) / size
            for each in self.parameters
        ]
        for parameter in self.parameters:
            parameter.grad = None
        return found

    def _differs(self, shares: Sequence[Share | None], expected: list[Tensor]) -> str:
        norms = _everywhere(torch.stack([each.flatten(1).square().sum(1) for each in expected])).sqrt()
        nothing = norms.new_zeros(norms.shape[1])
        found = torch.stack([nothing if share is None else share.norms.to(norms) for share in shares])
        if not torch.isfinite(norms).all():
            return "no gradient of rows that are no record is finite"
        limit = float(norms.norm(dim=0).median())
        clipper = Clipper.of(self.model, self.clipping, limit if limit > 0 else 1.0)
        wanted, factors = clipper.factors(norms), clipper.factors(found)
        apart = []
        for index, (parameter, share, rows) in enumerate(zip(self.parameters, shares, expected, strict=True)):
            total = torch.einsum("i,i...", wanted[index], rows)
            if share is not None:
                whole = share.weighted(factors[index], zeros=left_out(factors) > 0)
                first, many = rows_of(parameter)
                total = total - whole[first : first + many].to(total)
            apart.append(total.square().sum())
        sums = _everywhere(torch.stack(apart)).sqrt()
        largest = float(norms.norm(dim=0).max())
        own = norms.amax(1).clamp(min=1e-3 * largest)
        tolerance = (EXACT if norms.dtype == torch.float64 else ROUGH) * norms.shape[1]
        for gaps in ((found - norms).abs().amax(1), sums):  # a wrong norm makes all sums wrong
            for name, gap in zip(self.names, (gaps / own).tolist(), strict=True):
                if not gap <= tolerance:
                    return not_its_own(name, gap)
        return ""

    @contextmanager
    def _elsewhere(self) -> Iterator[None]:
        """Within, weights are no longer at a point such as zero, where gradients of others vanish."""
        generator = torch.Generator().manual_seed(dist.get_rank())
        kept = [held(each).clone() for each in self.parameters]
        try:
            for parameter in self.parameters:
                mine = held(parameter)
                size = float(mine.float().square().mean().sqrt()) if mine.numel() else 0.0
                mine.add_(0.1 * (size or 1.0) * torch.randn(mine.shape, generator=generator).to(mine))
            yield
        finally:
            for parameter, before in zip(self.parameters, kept, strict=True):
                held(parameter).copy_(before)


def _everywhere(mine: Tensor) -> Tensor:
    """The sum over all processes."""
    total = mine.detach().cpu().contiguous()
    dist.all_reduce(total)
    return total
