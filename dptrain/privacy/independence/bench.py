"""A model in training mode, asked what it makes of made-up rows in whatever company."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError
from dptrain.privacy.independence.draws import FixedDraws, Layouts, fixed_generators, layouts
from dptrain.privacy.independence.rows import ORDINARY, Rows, make_rows

RecordLoss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), labels (n,) -> losses (n,)

MOST_ROWS = 64  # a batch as long as a side of the input has at most so many rows
MOST_NUMBERS = 2**18  # and its inputs at most so many numbers
AT_INPUT = "gradient at the input"  # as messages call it
PLAIN_START, OTHER_START = 0.1, 0.6  # where the draws begin


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a batch gave, row by row, and the gradient of its weighted loss by parameter."""

    rows: Sequence[int]
    outputs: Mapping[str, Tensor]  # by what they are: (rows, ...)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    rounded: bool = False
    shapes: Sequence[tuple[int, ...]] = ()


class CannotRun(Exception):
    """The model raised an error on a batch of so many rows."""

    def __init__(self, rows: int, error: Exception) -> None:
        super().__init__(f"a batch of {rows} ({type(error).__name__}: {error})")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model and a loss, asked about rows with the same draws for a row each time."""

    model: nn.Module
    loss: RecordLoss
    rows: Rows
    dtype: torch.dtype  # of the inputs; int64 for models of token ids
    double: bool  # whether the model computes in double precision
    layouts: Layouts | None = None
    start: float = PLAIN_START

    def copied(self, change: Callable[[nn.Module], None] = lambda _: None) -> Bench:
        """The same with a copy of the model, its weights changed."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            change(model)
        return replace(self, model=model)

    def ask(self, rows: Sequence[int], *, gradients: bool = False) -> Answers:
        """Logits, losses and gradients at the inputs for these rows in one batch; nothing is trained.

        Raises CannotRun.
        """
        chosen = list(rows)
        labels = self.rows.labels[chosen]
        weights = 0.5 + 0.1 * torch.tensor(chosen)  # unlike, so that no exchange of rows cancels
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad} if gradients else {}
        with _surroundings(double=self.double), FixedDraws(rows, self.layouts, self.start) as mode:
            inputs = self.rows.inputs[chosen].to(self.dtype)
            if inputs.is_floating_point():
                inputs.requires_grad_()
            try:
                logits = self.model(inputs)
                if not isinstance(logits, Tensor) or logits.shape[:1] != labels.shape:
                    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                    raise ValueError(f"it returns {shape}, where the first axis must be the records")
                losses = self.loss(logits, labels)
                if losses.shape != labels.shape:
                    raise ValueError(f"a loss of shape {tuple(losses.shape)}, not one value a record")
                wanted = [*([inputs] if inputs.requires_grad else []), *named.values()]
                total = (losses * weights.to(losses)).sum()
                made: tuple[Tensor | None, ...] = (None,) * len(wanted)
                if total.requires_grad and wanted:
                    made = torch.autograd.grad(total, wanted, allow_unused=True)
            except ConfigError:
                raise
            except Exception as error:
                raise CannotRun(len(chosen), error) from error
        outputs = {"output": logits.detach(), "loss": losses.detach()}
        if inputs.requires_grad:
            at_input, *made_of_parameters = made
            if at_input is not None:
                outputs[AT_INPUT] = at_input
        else:
            made_of_parameters = list(made)
        return Answers(
            rows=chosen,
            outputs=outputs,
            gradients={
                name: torch.zeros_like(parameter) if gradient is None else gradient
                for (name, parameter), gradient in zip(named.items(), made_of_parameters, strict=True)
            },
            rounded=mode.rounded,
            shapes=mode.shapes,
        )


def open_bench(
    model: nn.Module, shape: tuple[int, ...], bounds: tuple[float, float], classes: int, loss: RecordLoss
) -> Bench:
    """The model in the widest precision that it computes in, and rows that it takes; raises CannotRun."""
    longest = max((side for side in shape if ORDINARY < side <= MOST_ROWS), default=0)
    more = longest if longest * torch.Size(shape).numel() <= MOST_NUMBERS else 0
    blank = Rows(inputs=torch.zeros(2, *shape), labels=torch.zeros(2, dtype=torch.int64))
    for whole, dtype in ((False, None), (True, None), (True, torch.int64)):
        for double in (True, False):
            bench = Bench(
                model=_in_precision(model, double=double),
                loss=loss,
                rows=blank,
                dtype=dtype or (torch.float64 if double else torch.float32),
                double=double,
            )
            tried = bench.copied()

            def usable(row: Tensor, tried: Bench = tried) -> bool:
                try:
                    replace(tried, rows=replace(blank, inputs=torch.cat([row, row]))).ask([0, 1])
                except CannotRun:
                    return False
                return True

            rows = make_rows(shape, bounds, classes, more=more, whole=whole, usable=usable)
            if rows is not None:
                few, many = (replace(tried, rows=rows).ask(range(count)) for count in (2, 3))
                return replace(bench, rows=rows, layouts=layouts(few.shapes, many.shapes))
    drawn = make_rows(shape, bounds, classes, more=0, whole=False, usable=lambda _: True)
    assert drawn is not None
    plainest = Bench(
        model=_in_precision(model, double=False), loss=loss, rows=drawn, dtype=torch.float32, double=False
    )
    plainest.ask([0, 1])
    raise AssertionError("a model that takes these rows was refused")


def _in_precision(model: nn.Module, *, double: bool) -> nn.Module:
    copied = copy.deepcopy(model)
    return copied.double() if double else copied.float()


@contextmanager
def _surroundings(*, double: bool) -> Iterator[None]:
    """The model's own precision for what it makes itself, and generators that are put back afterwards."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        with fixed_generators(), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(usual)
