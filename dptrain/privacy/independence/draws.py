"""Random draws replaced by fixed ones, so that a row meets the same masks whatever the other rows are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Multiples of these, modulo one, are spread evenly (Roberts 2018, "The unreasonable effectiveness of
# quasirandom sequences").
_ROWS, _CALLS, _AXES = 0.7548776662466927, 0.5698402909980532, (0.6180339887498949, 0.4142135623730951)
_LOWER = (torch.float32, torch.float16, torch.bfloat16)

Layouts = list[tuple[bool, ...]]  # of each draw: which axes grow with the number of rows


class FixedDraws(TorchDispatchMode):
    """Every random operation gives fixed numbers, one for each row, position and call.

    `rows` are the identities of the rows of a batch. `layouts` says of each draw which axes are the
    rows; without it, all numbers of a draw are equal, which is the same for every row in any layout.
    `shapes` is what was drawn, `rounded` whether double precision was given up somewhere.
    """

    def __init__(self, rows: Sequence[int], layouts: Layouts | None, start: float) -> None:
        super().__init__()
        self.rows = torch.tensor(rows, dtype=torch.float64)
        self.layouts = layouts
        self.start = start
        self.shapes: list[tuple[int, ...]] = []
        self.rounded = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in _DRAWS:
            values = {argument.name: argument.default_value for argument in func._schema.arguments}
            values |= dict(zip(values, args, strict=False)) | kwargs
            return _DRAWS[name](self, values, lambda: func(*args, **kwargs))
        made = func(*args, **kwargs)
        if name == "_to_copy" and isinstance(made, Tensor) and made.dtype in _LOWER:
            self.rounded |= args[0].dtype == torch.float64
        return made

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """The next draw's numbers in (0, 1), float64: of a row, the same in whatever company."""
        call = len(self.shapes)
        self.shapes.append(tuple(shape))
        if self.layouts is None or call >= len(self.layouts):
            return torch.full(tuple(shape), self.start, dtype=torch.float64)
        total = torch.full((1,) * len(shape), self.start + call * _CALLS, dtype=torch.float64)
        for axis, (size, grows) in enumerate(zip(shape, self.layouts[call], strict=False)):
            if not grows:
                along = torch.arange(size, dtype=torch.float64) * _AXES[axis % 2] * (axis + 1)
            elif size == len(self.rows):
                along = self.rows * _ROWS
            else:  # rows and something else in one axis: in which order, nobody can tell
                along = torch.zeros(size, dtype=torch.float64)
            total = total + along.view((-1,) + (1,) * (len(shape) - 1 - axis))
        return total.remainder(1.0).clamp(1e-6, 1 - 1e-6)


def layouts(few: Sequence[tuple[int, ...]], more: Sequence[tuple[int, ...]]) -> Layouts | None:
    """Which axes of each draw grow with the rows, from what two batch sizes drew; None: cannot be told."""
    if len(few) != len(more) or any(len(a) != len(b) for a, b in zip(few, more, strict=True)):
        return None
    return [tuple(x != y for x, y in zip(a, b, strict=True)) for a, b in zip(few, more, strict=True)]


@contextmanager
def fixed_generators() -> Iterator[None]:
    """The generators of PyTorch, NumPy and Python at fixed states inside, as they were outside."""
    # Not through torch.manual_seed, which takes notes for graphics cards that have not been woken yet.
    generator = torch.default_generator
    python, numpy, usual = random.getstate(), np.random.get_state(), generator.get_state()  # noqa: NPY002
    generator.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        generator.set_state(usual)


_Values = dict[str, Any]
_Draw = Callable[[FixedDraws, _Values, Callable[[], Any]], Any]


def _filled(numbers: Callable[[Tensor, _Values], Tensor]) -> _Draw:
    """A draw whose shape is the operation's own, filled with what these uniform numbers come to."""

    def draw(mode: FixedDraws, values: _Values, run: Callable[[], Any]) -> Any:
        made = run()
        return made.copy_(numbers(mode.uniform(made.shape), values))

    return draw


def _bernoulli(mode: FixedDraws, values: _Values, run: Callable[[], Any]) -> Any:
    """In `bernoulli(p)` the tensor holds the chances, elsewhere `p` does."""
    own = values["self"].clone()
    made = run()
    chance = values.get("p", own)
    return made.copy_(mode.uniform(made.shape) < (chance.double() if isinstance(chance, Tensor) else chance))


def _dropout(mode: FixedDraws, values: _Values, run: Callable[[], Any]) -> Any:  # noqa: ARG001
    inputs, chance = values["input"], values["p"]
    if values["train"] is False:
        return inputs.clone(), torch.ones_like(inputs, dtype=torch.bool)
    kept = mode.uniform(inputs.shape) >= chance
    return inputs * kept / max(1 - chance, 1e-12), kept


def _permutation(mode: FixedDraws, values: _Values, run: Callable[[], Any]) -> Any:  # noqa: ARG001
    made = run()
    numbers = mode.uniform(made.shape)
    order = numbers.argsort() if len(numbers.unique()) > 1 else torch.arange(len(made)).roll(1)
    return made.copy_(order)


def _leaky(mode: FixedDraws, values: _Values, run: Callable[[], Any]) -> Any:  # noqa: ARG001
    inputs, noise = values["self"], values["noise"]
    middle = (values["lower"] + values["upper"]) / 2
    noise.copy_(torch.where(inputs <= 0, middle, 1.0))
    return inputs * noise


def _integers(numbers: Tensor, values: _Values) -> Tensor:
    low = values.get("from", values.get("low")) or 0
    high = values.get("to", values.get("high")) or 2**20
    return (low + numbers * (high - low)).floor()


def _normal(numbers: Tensor, values: _Values) -> Tensor:
    deviations = torch.special.ndtri(numbers)
    return deviations * values.get("std", 1.0) + values.get("mean", 0.0)


_DRAWS: dict[str, _Draw] = {
    **dict.fromkeys(("bernoulli", "bernoulli_"), _bernoulli),
    **dict.fromkeys(("rand", "rand_like"), _filled(lambda u, _: u)),
    "uniform_": _filled(lambda u, values: values["from"] + u * (values["to"] - values["from"])),
    **dict.fromkeys(("randn", "randn_like", "normal", "normal_", "normal_functional"), _filled(_normal)),
    **dict.fromkeys(("randint", "randint_like", "random", "random_"), _filled(_integers)),
    "randperm": _permutation,
    "exponential_": _filled(lambda u, values: -torch.log1p(-u) / values["lambd"]),
    "geometric_": _filled(lambda u, values: (torch.log1p(-u) / np.log1p(-values["p"])).ceil().clamp(min=1)),
    "log_normal_": _filled(lambda u, values: _normal(u, values).exp()),
    "cauchy_": _filled(lambda u, v: v["median"] + v["sigma"] * torch.tan(torch.pi * (u - 0.5))),
    "native_dropout": _dropout,
    "rrelu_with_noise": _leaky,
    "multinomial": _filled(lambda u, values: values["self"].topk(u.shape[-1], dim=-1).indices),
    "poisson": _filled(lambda u, values: (values["self"] + u).floor()),
    "binomial": _filled(lambda u, values: (values["count"] * values["prob"] + u).floor()),
    "_standard_gamma": _filled(lambda u, values: values["self"] * (0.5 + u)),
    "_sample_dirichlet": _filled(lambda _, values: values["self"] / values["self"].sum(-1, keepdim=True)),
}
