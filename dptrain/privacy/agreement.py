"""Whether an engine's per-record gradients are those of plain autograd, before any record is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from dptrain.contracts import ConfigError, Form, Forms, Inputs, devices
from dptrain.contracts.trees import by_name
from dptrain.contracts.trees import count as count_of
from dptrain.privacy.bfloat16 import in_bfloat16
from dptrain.privacy.bookkeeping.shares import Share
from dptrain.privacy.bookkeeping.tape import Layout
from dptrain.privacy.bookkeeping.uses import NoRule
from dptrain.privacy.clipping import Clipper, left_out
from dptrain.privacy.gradients import ByHooks, ByRules, Gradients, InFull, OneByOne, RecordLoss, trained
from dptrain.privacy.made_up import MadeUp, vocabulary_of
from dptrain.privacy.stilled import stilled

ROWS = (2, 3)
LARGE = 3_000_000  # parameters, beyond which fewer rows are compared
LONGEST = 16  # a sequence, up to which as many rows as it is long are compared
ROWS_AT_MOST = LONGEST
EXACT, ROUGH = 1e-6, 1e-3  # of the largest norm: in double precision, and in the model's own

CURE = "; use mechanism.engine=bookkeeping"

Way = Callable[[nn.Module, RecordLoss], Gradients]


def not_its_own(name: str, apart: float) -> str:
    """That a parameter's gradients are wrong by this share of their length, in words."""
    return (
        f"the gradient of `{name}` does not come record by record from its own layer "
        f"({apart:.2g} of its length apart)"
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A way to per-record gradients that agrees with plain autograd; `note`: why not a faster one."""

    make: Way
    note: str = ""


def choose(
    kind: str,
    model: nn.Module,
    loss: RecordLoss,
    like: Inputs,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    forms: Forms | None = None,
    labels: Tensor | None = None,
    copies: int = 1,
    clipping: str = "flat",
    bfloat16: bool = False,
) -> Chosen:
    """The fastest way of this engine whose gradients are right, tried on rows that are no record.

    `like` is any batch of inputs, of which shape and type are used and no value; `forms` says more of them,
    where they are records and no features: the bounds of each. `labels` are made up, ROWS_AT_MOST of them;
    without, outputs are those of classes. `bookkeeping` goes from the rules of layers to the whole model in
    full, by functorch or else row by row; `hooks` has Opacus' hooks and nothing else; in `bfloat16` there are
    the rules alone. Raises ConfigError that names what is wrong where no way is right.
    """
    with torch.random.fork_rng(devices.with_generators()):
        trial = _Trial(
            model, loss, like, bounds=bounds, forms=forms, labels=labels, copies=copies, clipping=clipping
        )
        # Watching every operation takes its time, which a model that draws nothing need not.
        with stilled() if trial.draws else nullcontext():
            return _choose_in_bfloat16(kind, trial) if bfloat16 else _choose(kind, model, trial)


def _choose(kind: str, model: nn.Module, trial: _Trial) -> Chosen:
    if kind == "hooks":
        if problem := trial.wrong(ByHooks):
            raise ConfigError(
                "mechanism.engine=hooks computes other gradients than PyTorch for this model"
                f"{_strange(model)}: {problem.removesuffix(CURE)}{CURE}"
            )
        return Chosen(make=ByHooks)
    ruled, problem = trial.by_rules()
    if ruled is not None:
        return Chosen(make=ruled)
    note = f"{problem}; per-record gradients of the whole model are formed in full, which is slower"
    if not trial.wrong(InFull):
        return Chosen(make=InFull, note=note)
    if wrong := trial.wrong(OneByOne):
        raise ConfigError(f"model: its gradients cannot be told record by record: {wrong}")
    return Chosen(make=OneByOne, note=f"{note}, one record after the other")


def _choose_in_bfloat16(kind: str, trial: _Trial) -> Chosen:
    if kind == "hooks":
        raise ConfigError(f"mechanism.engine=hooks: Opacus' hooks know no dtype=bfloat16{CURE}")
    ruled, problem = trial.by_rules()
    if ruled is None:
        raise ConfigError(f"dtype=bfloat16: {problem}; use dtype=float32")
    return Chosen(make=in_bfloat16(ruled, trial.model, trial.loss, trial.rows, trial.copies))


def _strange(model: nn.Module) -> str:
    """The layers that Opacus' hooks do not know, or whose work in place they cannot stand; else all."""
    known = GradSampleModule.GRAD_SAMPLERS
    strange: list[str] = []
    usual: list[str] = []
    for name, layer in model.named_modules():
        in_place = bool(getattr(layer, "inplace", False))
        trains = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        if in_place or trains:
            named = f"`{name}` ({type(layer).__name__}{', in place' if in_place else ''})"
            (strange if in_place or type(layer) not in known else usual).append(named)
    return f", which holds {', '.join((strange or usual)[:8])}"


class _Trial:
    """Synthetic rows, and what plain autograd says of each alone."""

    def __init__(
        self,
        model: nn.Module,
        loss: RecordLoss,
        like: Inputs,
        *,
        bounds: tuple[float, float],
        forms: Forms | None,
        labels: Tensor | None,
        copies: int,
        clipping: str,
    ) -> None:
        self.loss, self.copies, self.clipping = loss, copies, clipping
        small = sum(each.numel() for each in model.parameters()) <= LARGE
        self.counts = ROWS if small else ROWS[:1]
        self.generator = torch.Generator().manual_seed(0)
        self.like, self.bounds, self.forms, self.labels = like, bounds, forms, labels
        self.vocabulary = vocabulary_of(model)
        for dtype, tolerance in ((torch.float64, EXACT), (None, ROUGH)):
            self.model, self.tolerance = self._moved(model, dtype), tolerance
            try:
                with stilled() as drawn:
                    inputs, _ = self.rows(1)
                    self.model(inputs)
                self.draws = bool(drawn)
                with stilled() if drawn else nullcontext():
                    self.expected = {count: self._alone(count) for count in self.counts}
            except Exception as error:
                if dtype is None:
                    raise ConfigError(
                        "model: it cannot be run forward and backward on single rows that are no record "
                        f"({self._said_of_rows()}): "
                        f"{type(error).__name__}: {error}"
                    ) from error
            else:
                return

    def _said_of_rows(self) -> str:
        if isinstance(self.like, Tensor):
            bounds = self.forms.bounds if isinstance(self.forms, Form) else self.bounds
            return f"uniform within {bounds}, shape {tuple(self.like.shape[1:])}"
        shapes = by_name(lambda rows: tuple(rows.shape[1:]), self.like)
        return f"uniform within their bounds, shapes {shapes}"

    def _moved(self, model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
        """A copy whose weights are no longer at a point such as zero, where gradients of others vanish."""
        try:
            moved = copy.deepcopy(model).to(dtype=dtype).train(model.training)
        except RuntimeError as error:  # a tensor that was computed, kept as an attribute
            raise ConfigError(
                f"model: it cannot be copied ({str(error).splitlines()[0]}); keep no computed tensor as "
                "an attribute: use torch.nn.utils.parametrizations in place of torch.nn.utils.weight_norm"
            ) from error
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter.nan_to_num_(nan=0.0, posinf=1.0, neginf=-1.0)
                size = float(parameter.detach().float().square().mean().sqrt()) or 1.0
                noise = torch.randn(parameter.shape, generator=self.generator)
                parameter.add_(0.1 * size * noise.to(parameter))
        return moved

    def rows(self, count: int) -> tuple[Any, Tensor]:
        """Inputs and labels of so many records, `copies` of each side by side."""
        width = next(iter(trained(self.model).values())).dtype
        made = MadeUp(
            like=self.like,
            bounds=self.bounds,
            forms=self.forms,
            labels=torch.arange(count) if self.labels is None else self.labels,
            copies=self.copies,
            vocabulary=self.vocabulary,
            width=width,
        )
        inputs, labels = made.rows(count)
        if self.labels is None:
            with torch.no_grad():
                labels = labels % self.model(by_name(lambda rows: rows[:1], inputs)).shape[-1]
        return inputs, labels

    def _alone(self, count: int) -> list[Tensor]:
        _, shares = OneByOne(self.model, self.loss)(*self.rows(count), self.copies)
        return [share.rows() for share in shares if share is not None]

    def by_rules(self) -> tuple[partial[Any] | None, str]:
        """The rules, with the axes that records lie along; or why they are wrong."""
        try:
            shapes = []
            for count in ROWS:
                rules = ByRules(copy.deepcopy(self.model), self.loss)
                shapes.append(self._shapes(rules, count))
            rows = tuple(count * self.copies for count in ROWS)
            layout = Layout.of(shapes[0], shapes[1], (rows[0], rows[1]))
        except NoRule as no_rule:
            return None, str(no_rule)
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"
        way: partial[Any] = partial(ByRules, layout=layout)
        # Where records may lie on another axis than the first: as many of them as a sequence is long.
        lengths = {extent for shape in shapes[1].values() if len(shape) == 3 for extent in shape[:2]}
        fit = [each for each in lengths - set(ROWS) if 1 < each <= LONGEST]
        apart = bool(layout.axes) or rules.module.reads_sequences
        more = (max(fit),) if fit and apart and self.counts == ROWS else ()
        wrong = self.wrong(way, more)
        return (None, wrong) if wrong else (way, "")

    def _shapes(self, rules: ByRules, count: int) -> dict[tuple[str, int], torch.Size]:
        inputs, _ = self.rows(count)
        with rules.module.looking(count_of(inputs)) as tape:
            rules.module(inputs)
        return tape.shapes

    def wrong(self, way: Way, more: tuple[int, ...] = ()) -> str:
        """What is wrong with this way, by name; empty where its gradients are those of rows alone."""
        try:
            gradients = way(copy.deepcopy(self.model), self.loss)
            for count in (*self.counts, *more):
                if count not in self.expected:
                    self.expected[count] = self._alone(count)
                _, shares = gradients(*self.rows(count), self.copies)
                if problem := self._differs(shares, self.expected[count]):
                    return problem
        except NoRule as no_rule:
            return str(no_rule)
        except ConfigError as error:
            return str(error).removeprefix("model: ")
        except Exception as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return ""

    def _differs(self, shares: list[Share | None], expected: list[Tensor]) -> str:
        """The parameter whose gradients, norms or clipped sum differ by more than rounding; empty: none."""
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in expected])
        finite = torch.isfinite(norms).all(0)
        if not finite.any():
            return "no gradient of rows that are no record is finite"
        largest = float(norms[:, finite].norm(dim=0).max())
        limit = float(norms[:, finite].norm(dim=0).median())
        clipper = Clipper.of(self.model, self.clipping, limit if limit > 0 else 1.0)
        wanted = clipper.factors(norms)
        nothing = norms.new_zeros(norms.shape[1])
        found = torch.stack([nothing if share is None else share.norms.to(norms) for share in shares])
        if found.shape != norms.shape:
            return "its gradients are not one a record"
        factors = clipper.factors(found)
        names = list(trained(self.model))
        for index, (name, share, rows) in enumerate(zip(names, shares, expected, strict=True)):
            weighted = torch.einsum("i,i...", wanted[index][finite], rows[finite])
            total = torch.zeros_like(weighted)
            if share is not None:
                total = share.weighted(factors[index], zeros=left_out(factors) > 0).to(weighted)
            apart = max(
                float((found[index] - norms[index])[finite].abs().max()), float((total - weighted).norm())
            )
            own = max(float(norms[index][finite].max()), 1e-3 * largest)
            if not apart <= self.tolerance * len(rows) * own:
                return not_its_own(name, apart / own)
        return ""
