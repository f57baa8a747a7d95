"""Ways to the gradients of single records; norms and sums are always taken from the same ones.

For Opacus' hooks there are samplers of ours, by its own extension point, where its own are those of something
else. It reads the windows of an image as if its rows followed each other, pads by zeros whatever the layer
pads by, gives the padding's row of an embedding a gradient, and counts a row once that a bag holds twice. It
says nothing of that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from opacus import GradSampleModule
from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.conv import compute_conv_grad_sample
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional as F

from dptrain.contracts import ConfigError, Inputs
from dptrain.contracts.trees import by_name, parts
from dptrain.privacy.bookkeeping.module import BookkeepingModule, without_vmap_warning
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
        return self.of_first(len(labels), inputs, labels, copies)

    def outputs(self, inputs: Inputs) -> Tensor:
        """What the model makes of these inputs."""
        outputs: Tensor = self.module(inputs)
        return outputs

    def of_first(
        self, count: int, inputs: Inputs, labels: Tensor, copies: int
    ) -> tuple[Tensor, list[Share | None]]:
        """The same, where so many rows are records and those after them are blank."""
        try:
            with self.module.recording(len(labels), copies) as tape:
                loss = self.loss(self.outputs(inputs), labels)[:count].sum() / copies
                tape.backward(loss)
        except NoRule as problem:
            raise ConfigError(f"model: {problem}") from problem
        shares = [tape.shares.pop(parameter, None) for parameter in self.parameters]
        if tape.shares:  # else it would be left out of the norms without a word
            raise ConfigError(
                "model: a layer's gradients are those of a parameter that the model has no more"
            )
        return loss.detach(), shares


class _WholeModel:
    """Gradients of the whole model in full, for as many records at once as fit in memory."""

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        self.model = model
        self.loss = loss
        self.parameters = trained(model)
        self.rows_at_once = max(1, HELD // max(1, sum(each.numel() for each in self.parameters.values())))


class InFull(_WholeModel):
    """By functorch: every use of a parameter counts."""

    def __call__(self, inputs: Inputs, labels: Tensor, copies: int) -> tuple[Tensor, list[Share | None]]:
        def one(values: dict[str, Tensor], rows: Inputs, classes: Tensor) -> Tensor:
            return self.loss(functional_call(self.model, values, (rows,)), classes).sum() / copies

        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        apart = [by_name(lambda rows: rows.unflatten(0, (-1, copies)), some) for some in (inputs, labels)]
        each_record = vmap(grad_and_value(one), in_dims=(None, 0, 0), randomness="different")
        with without_vmap_warning():
            found, losses = each_record(values, *apart)
        return losses.sum(), [Instantiated.of([wide(found[name])]) for name in self.parameters]


class OneByOne(_WholeModel):
    """One record after the other: slow, and right for any model."""

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

    rows_at_once = None

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        try:
            self.module = GradSampleModule(model, loss_reduction="sum")
        except NotImplementedError as problem:
            raise NoRule(str(problem)) from problem
        self.loss = loss
        self.parameters = trained(model)

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


@register_grad_sampler([nn.Conv1d, nn.Conv2d, nn.Conv3d])
def convolution(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: list[Tensor], grads: Tensor
) -> Mapping[Tensor, Tensor]:
    """Gradients of weight and bias (n, *shape), from inputs and output gradients (n, channels, *size)."""
    same = layer.padding == "same" and any(extent % 2 == 0 for extent in layer.kernel_size)
    if layer.padding_mode != "zeros" or same:
        return _by_functorch(layer, inputs[0], grads)
    in_order = [tensor.contiguous() for tensor in inputs]
    return compute_conv_grad_sample(layer, in_order, grads)


def _by_functorch(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor, grads: Tensor
) -> Mapping[Tensor, Tensor]:
    """The layer's own forward pass, differentiated record by record."""

    def product(values: list[Tensor], image: Tensor, dy: Tensor) -> Tensor:
        bias = values[1] if len(values) > 1 else None
        output: Tensor = layer._conv_forward(image.unsqueeze(0), values[0], bias)
        return (output * dy).sum()

    values = list(layer.parameters())
    found = vmap(grad(product), in_dims=(None, 0, 0))([each.detach() for each in values], inputs, grads)
    return dict(zip(values, found, strict=True))


@register_grad_sampler(nn.LayerNorm)
def layer_norm(layer: nn.LayerNorm, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of scale and shift (n, *shape), be there a shift or not."""
    normalised = F.layer_norm(inputs[0], layer.normalized_shape, eps=layer.eps)
    between = tuple(range(1, grads.dim() - layer.weight.dim()))
    found = {layer.weight: grads * normalised}
    if layer.bias is not None:
        found[layer.bias] = grads
    return {parameter: each.sum(between) if between else each for parameter, each in found.items()}


@register_grad_sampler(nn.Embedding)
def embedding(layer: nn.Embedding, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of the table (n, entries, width), from whole numbers (n, ...)."""
    rows = [
        _table(layer, places.flatten(), found.reshape(-1, layer.embedding_dim))
        for places, found in zip(inputs[0], grads, strict=True)
    ]
    return {layer.weight: torch.stack(rows)}


@register_grad_sampler(nn.EmbeddingBag)
def bag(layer: nn.EmbeddingBag, inputs: list[Tensor], grads: Tensor) -> Mapping[Tensor, Tensor]:
    """Gradients of the table (n, entries, width), a bag a record, each entry as heavy as the others."""
    if inputs[0].dim() == 2:
        entries = list(inputs[0])
    else:
        starts = inputs[1][:-1] if layer.include_last_offset else inputs[1]
        entries = list(inputs[0].tensor_split(starts[1:].cpu()))
    rows = []
    for places, found in zip(entries, grads, strict=True):
        if layer.mode == "max":
            rows.append(_largest(layer, places, found))
            continue
        counted = len(places) if layer.padding_idx is None else int((places != layer.padding_idx).sum())
        share = found / max(1, counted) if layer.mode == "mean" else found
        rows.append(_table(layer, places, share.expand(len(places), -1)))
    return {layer.weight: torch.stack(rows)}


def _largest(layer: nn.EmbeddingBag, places: Tensor, grads: Tensor) -> Tensor:
    """The table's gradient by one bag, which goes to the row that was the largest, in each coordinate."""
    table = torch.zeros(layer.weight.shape, dtype=grads.dtype, device=grads.device)
    kept = places if layer.padding_idx is None else places[places != layer.padding_idx]
    if len(kept):
        largest = kept[layer.weight.detach()[kept].argmax(0)]
        table[largest, torch.arange(len(grads), device=grads.device)] = grads
    return table


def _table(layer: nn.Embedding | nn.EmbeddingBag, places: Tensor, grads: Tensor) -> Tensor:
    """The table's gradient by one record's lookups (entries,), each with its own (entries, width)."""
    table = torch.zeros(layer.weight.shape, dtype=grads.dtype, device=grads.device)
    table.index_add_(0, places, grads)
    if layer.padding_idx is not None:
        table[layer.padding_idx] = 0.0
    if layer.scale_grad_by_freq:
        table /= places.bincount(minlength=len(table)).clamp(min=1).unsqueeze(1)
    return table
