"""Ways to the gradients of single records; norms and sums are always taken from the same ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dptrain.contracts import ConfigError, Inputs
from dptrain.contracts.trees import by_name, parts
from dptrain.privacy import samplers  # noqa: F401 - registers itself with Opacus
from dptrain.privacy.bookkeeping.module import BookkeepingModule
from dptrain.privacy.bookkeeping.other import without_vmap_warning
from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.tape import Layout
from dptrain.privacy.bookkeeping.uses import NoRule, sum_copies
from dptrain.privacy.clipping import wide

RecordLoss = Callable[[Tensor, Tensor], Tensor]  # outputs (n, ...), labels (n, ...) -> losses (n,)

HELD = 30_000_000  # numbers of gradients in full that are held at once


class Gradients(Protocol):
    """What each record adds to the gradient of each parameter that is trained."""

    @property
    def rows_at_once(self) -> int | None:
        """Records whose gradients fit in memory; None: as many as one likes."""
        ...

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        """Summed loss, and a share a parameter in the order of `model.parameters()`; None: no gradient.

        Inputs (records * copies, ...) and labels (records * copies,) hold the copies of one record
        side by side; its loss and its gradient are means over them.
        """
        ...


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters to train, by name, in the order of `model.parameters()`."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


class ByRules:
    """One backward pass for the gradients of layer outputs, from which each layer's rule forms shares."""

    rows_at_once = None

    def __init__(self, model: nn.Module, loss: RecordLoss, layout: Layout | None = None) -> None:
        self.module = BookkeepingModule(model, layout)
        self.parameters = list(trained(model).values())
        self.loss = loss

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        try:
            with self.module.recording(len(labels), copies) as tape:
                loss = self.loss(self.module(inputs), labels).sum() / copies
                tape.backward(loss)
        except NoRule as problem:
            raise ConfigError(f"model: {problem}") from problem
        return loss.detach(), [tape.shares.pop(parameter, None) for parameter in self.parameters]


class InFull:
    """Gradients of the whole model in full, by functorch: every use of a parameter counts."""

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        self.model = model
        self.loss = loss
        self.parameters = trained(model)
        self.rows_at_once = _fitting(self.parameters)

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        def one(values: dict[str, Tensor], rows: Inputs, classes: Tensor) -> Tensor:
            return self.loss(functional_call(self.model, values, (rows,)), classes).sum() / copies

        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        apart = [by_name(lambda rows: rows.unflatten(0, (-1, copies)), some) for some in (inputs, labels)]
        each_record = vmap(grad_and_value(one), in_dims=(None, 0, 0), randomness="different")
        with without_vmap_warning():
            found, losses = each_record(values, *apart)
        return losses.sum(), [Instantiated.of([wide(found[name])]) for name in self.parameters]


class OneByOne:
    """Gradients of the whole model in full, one record after the other: slow, and right for any model."""

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        self.model = model
        self.loss = loss
        self.parameters = trained(model)
        self.rows_at_once = _fitting(self.parameters)

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        total, rows = torch.zeros((), device=labels.device), []
        parameters = list(self.parameters.values())
        for alone, label in zip(parts(inputs, copies), labels.split(copies), strict=True):
            loss = self.loss(self.model(alone), label).sum() / copies
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            rows.append(
                [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
            )
            total = total + loss.detach()
        return total, [Instantiated.of([wide(torch.stack(each))]) for each in zip(*rows, strict=True)]


class ByHooks:
    """Every record's gradient in full, layer by layer, by Opacus' hooks: the reference for the rules."""

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        try:
            self.module = GradSampleModule(model, loss_reduction="sum")
        except NotImplementedError as problem:
            raise NoRule(str(problem)) from problem
        self.loss = loss
        self.parameters = trained(model)
        self.rows_at_once = None

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        for parameter in self.parameters.values():
            parameter._forward_counter = 0  # type: ignore[attr-defined]  # of a layer that ended in nothing
        loss = self.loss(self.module(inputs), labels).sum() / copies
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            loss.backward()
        shares: list[Share | None] = []
        for name, parameter in self.parameters.items():
            found: Any = parameter.grad_sample  # type: ignore[attr-defined]
            parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]
            if found is not None and (not isinstance(found, Tensor) or len(found) != len(labels)):
                raise ConfigError(
                    f"model: the gradients of `{name}` by Opacus' hooks are not those of {len(labels)} "
                    "records, one each; use mechanism.engine=bookkeeping"
                )
            shares.append(None if found is None else Instantiated.of([sum_copies(wide(found), copies)]))
        return loss.detach(), shares


def _fitting(parameters: dict[str, nn.Parameter]) -> int:
    return max(1, HELD // max(1, sum(each.numel() for each in parameters.values())))
