"""A model in training mode, asked what it makes of made-up rows in whatever company."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, Form, Forms, Inputs
from dptrain.contracts.trees import by_name, leaves
from dptrain.privacy.independence.draws import FixedDraws, Layouts, fixed_generators, layouts
from dptrain.privacy.independence.rows import ORDINARY, MadeUp, Rows, make_rows

RecordLoss = Callable[[Tensor, Tensor], Tensor]  # outputs (n, ...), labels (n, ...) -> losses (n,)

MOST_ROWS = 64  # a batch as long as a side of the input has at most so many rows
MOST_NUMBERS = 2**18  # and its inputs at most so many numbers
AT_INPUT = "gradient at the input"  # as messages call it
# Whether rows are rounded, and the type of inputs that the data have as floats, None for that of the model.
KINDS = ((False, None), (True, None), (True, torch.int64))
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
    dtype: torch.dtype  # of the inputs; int64 for models that take token ids for what the data have as floats
    forms: Forms
    double: bool  # whether the model computes in double precision
    layouts: Layouts | None = None
    start: float = PLAIN_START

    def copied(self) -> Bench:
        """The same with a copy of the model, which shares its parameters: no call may change them."""
        shared = {id(one): one for one in self.model.parameters()}
        return replace(self, model=copy.deepcopy(self.model, shared))

    def ask(self, rows: Sequence[int], *, gradients: Collection[str] = ()) -> Answers:
        """Logits, losses and gradients at the inputs for these rows in one batch; nothing is trained.

        `gradients` are wanted of the parameters of these names. Raises CannotRun.
        """
        chosen = list(rows)
        labels = self.rows.labels[chosen]
        weights = 0.5 + 0.1 * torch.tensor(chosen)  # unlike, so that no exchange of rows cancels
        named = {n: p for n, p in self.model.named_parameters() if n in gradients}
        with _surroundings(double=self.double), FixedDraws(rows, self.layouts, self.start) as mode:
            inputs = self._inputs(chosen)
            floats = {
                AT_INPUT if isinstance(inputs, Tensor) else f"{AT_INPUT} `{name}`": one.requires_grad_()
                for name, one in (inputs if isinstance(inputs, Mapping) else {"": inputs}).items()
                if one.is_floating_point()
            }
            try:
                logits = self.model(inputs)
                if not isinstance(logits, Tensor) or logits.shape[:1] != labels.shape[:1]:
                    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                    raise ValueError(f"it returns {shape}, where the first axis must be the records")
                losses = self.loss(logits, labels)
                if losses.shape != labels.shape[:1]:
                    raise ValueError(f"a loss of shape {tuple(losses.shape)}, not one value a record")
                wanted = [*floats.values(), *named.values()]
                total = (losses * weights.to(losses)).sum()
                made: tuple[Tensor | None, ...] = (None,) * len(wanted)
                if total.requires_grad and wanted:
                    made = torch.autograd.grad(total, wanted, allow_unused=True)
            except ConfigError:
                raise
            except Exception as error:
                raise CannotRun(len(chosen), error) from error
        outputs = {"output": logits.detach(), "loss": losses.detach()}
        outputs |= {what: one for what, one in zip(floats, made, strict=False) if one is not None}
        made_of_parameters = made[len(floats) :]
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

    def _inputs(self, chosen: list[int]) -> Any:
        def one(rows: Tensor, form: Form) -> Tensor:
            return rows[chosen].to(torch.int64 if form.whole else self.dtype)

        return by_name(one, self.rows.inputs, self.forms)


def open_bench(model: nn.Module, forms: Forms, labels: MadeUp, loss: RecordLoss) -> Bench:
    """The model in the widest precision that it computes in, and rows that it takes; raises CannotRun."""
    shapes = [form.shape for form in leaves(forms)]
    longest = max((side for shape in shapes for side in shape if ORDINARY < side <= MOST_ROWS), default=0)
    numbers = sum(torch.Size(shape).numel() for shape in shapes)
    more = longest if longest * numbers <= MOST_NUMBERS else 0
    blank = Rows(
        inputs=by_name(lambda form: torch.zeros(2, *form.shape), forms),
        labels=labels(2, torch.Generator().manual_seed(0)),
    )

    def opened(rows: Rows, dtype: torch.dtype, double: bool) -> Bench:
        own = copy.deepcopy(model)
        own = own.double() if double else own.float()
        return Bench(model=own, loss=loss, rows=rows, dtype=dtype, forms=forms, double=double)

    for whole, dtype in KINDS:
        for double in (True, False):
            taken = dtype or (torch.float64 if double else torch.float32)
            tried = [opened(blank, taken, double)]

            def usable(row: Inputs, tried: list[Bench] = tried) -> bool:
                twice = by_name(lambda one: torch.cat([one, one]), row)
                try:
                    replace(tried[0], rows=replace(blank, inputs=twice)).ask([0, 1])
                except CannotRun:
                    return False
                return True

            rows = make_rows(forms, labels, more=more, whole=whole, usable=usable)
            if rows is not None:
                few, many = (replace(tried[0], rows=rows).ask(range(count)) for count in (2, 3))
                tried.clear()  # whatever it remembers of them, and before there is another
                return replace(opened(rows, taken, double), layouts=layouts(few.shapes, many.shapes))
    drawn = make_rows(forms, labels, more=0, whole=False, usable=lambda _: True)
    assert drawn is not None
    opened(drawn, torch.float32, False).ask([0, 1])
    raise AssertionError("a model that takes these rows was refused")


def features_of(forms: Forms, labels: MadeUp, *, made_by: nn.Module) -> Form:
    """What the features of rows within the bounds are like; raises CannotRun."""
    maker, failures = copy.deepcopy(made_by).cpu().float(), []
    for whole, dtype in KINDS:
        rows = make_rows(forms, labels, more=0, whole=whole, usable=lambda _: True)
        assert rows is not None
        bench = Bench(
            model=maker,
            loss=lambda made, _: made.flatten(1).sum(1),
            rows=rows,
            dtype=dtype or torch.float32,
            forms=forms,
            double=False,
        )
        try:
            made = bench.ask(range(ORDINARY)).outputs["output"]
        except CannotRun as failure:
            failures.append(failure)
        else:
            return Form(shape=tuple(made.shape[1:]), bounds=(float(made.min()), float(made.max())))
    raise failures[0]


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
