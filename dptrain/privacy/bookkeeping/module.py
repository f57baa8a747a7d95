"""A model whose layers leave behind what per-record clipping needs, in one backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from opacus.layers.dp_multihead_attention import SequenceBias
from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN, RNNLinear
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.hooks import RemovableHandle

from dptrain.contracts import MadeKernels
from dptrain.contracts.layers import FrozenBatchNorm
from dptrain.privacy.bookkeeping.attention import attention, sequence_bias
from dptrain.privacy.bookkeeping.convolution import convolution, made_kernels, transposed_convolution
from dptrain.privacy.bookkeeping.embedding import bag, embedding
from dptrain.privacy.bookkeeping.linear import linear
from dptrain.privacy.bookkeeping.normalisation import (
    frozen_batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from dptrain.privacy.bookkeeping.products import by_onednn
from dptrain.privacy.bookkeeping.recurrent import cell, recurrent
from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.tape import Layout, Tape
from dptrain.privacy.bookkeeping.uses import NoRule, Rule, Use, original_type, sum_copies
from dptrain.privacy.clipping import wide

# By exact type: a subclass may compute something else.
RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: linear,
    RNNLinear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.ConvTranspose1d: transposed_convolution,
    nn.ConvTranspose2d: transposed_convolution,
    nn.ConvTranspose3d: transposed_convolution,
    nn.GroupNorm: group_norm,
    nn.InstanceNorm1d: instance_norm,
    nn.InstanceNorm2d: instance_norm,
    nn.InstanceNorm3d: instance_norm,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    FrozenBatchNorm: frozen_batch_norm,
    nn.Embedding: embedding,
    SequenceBias: sequence_bias,
}

# Forward passes of ours in place of a layer's own, which give the same outputs and note all that is needed.
FORWARDS: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: attention,
    nn.RNN: recurrent,
    nn.GRU: recurrent,
    nn.LSTM: recurrent,
    nn.RNNCell: cell,
    nn.GRUCell: cell,
    nn.LSTMCell: cell,
    nn.EmbeddingBag: bag,
}

HOOKED = "_per_record_hooks"  # the attribute that marks a model as taken


class BookkeepingModule(nn.Module):
    """A model whose layers are watched by rules.

    Within `recording` a forward pass notes the inputs of each layer; `Tape.backward` then
    computes the gradients of their outputs only, and forms shares as they arrive. Raises NoRule
    where a parameter has no layer of its own that could be watched.
    """

    tape: Tape | None = None

    def __init__(self, model: nn.Module, layout: Layout | None = None) -> None:
        super().__init__()
        if hasattr(model, HOOKED):
            raise ValueError("the model is hooked already; unhook it first")
        self._module = model
        self.layout = layout or Layout()
        self.same: Mapping[Tensor, Tensor] = {}  # of a sharded model: a gathered parameter's own shard
        self.in_full: dict[str, list[str]] = {}  # layers without a rule, by type
        self.names = {module: name for name, module in model.named_modules()}
        self._forwards: list[nn.Module] = []
        self._linear_layers: list[nn.Linear] = []
        self._hooks: list[RemovableHandle] = []
        watched = list(dict.fromkeys(_watched(model)))  # one may have several parents
        for layer in watched:
            self._watch(layer)
        setattr(model, HOOKED, self._hooks)

    @property
    def reads_sequences(self) -> bool:
        """Whether some layer takes more than one axis for what may be the records'."""
        return bool(self._forwards or self.in_full)

    def _watch(self, layer: nn.Module) -> None:
        if original_type(layer) in FORWARDS and "forward" not in vars(layer):
            self._forwards.append(layer)
            return
        rule = RULES.get(original_type(layer)) if "forward" not in vars(layer) else None
        if isinstance(layer, MadeKernels) and layer.as_promised:
            rule = made_kernels
        if rule is None:
            self._refuse_most_of_the_model(layer)
            self.in_full.setdefault(type(layer).__name__, []).append(f"`{self.names[layer]}`")
            hook = layer.register_forward_hook(self._note_in_full, with_kwargs=True)
        else:
            hook = layer.register_forward_hook(partial(self._note, rule=rule))
        if isinstance(layer, nn.Linear) and original_type(layer) is nn.Linear and rule is not None:
            self._linear_layers.append(layer)
        self._hooks.append(hook)

    def _refuse_most_of_the_model(self, layer: nn.Module) -> None:
        """Raise NoRule for parameters beside layers that are nearly all there is: twice a forward pass."""
        held = sum(each.numel() for each in layer.parameters() if each.requires_grad)
        own = sum(each.numel() for each in layer.parameters(recurse=False) if each.requires_grad)
        if own < held and 2 * held > sum(each.numel() for each in self._module.parameters()):
            raise NoRule(
                f"`{self.names[layer]}` ({type(layer).__name__}) has parameters of its own beside its layers"
            )

    def forward(self, *inputs: Any) -> Any:
        return self._module(*inputs)

    def unhook(self) -> nn.Module:
        """The model as it was."""
        for hook in self._hooks:
            hook.remove()
        if hasattr(self._module, HOOKED):
            delattr(self._module, HOOKED)
        return self._module

    def _note(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any, *, rule: Rule) -> Tensor | None:
        if self.tape is None or not self.tape.listens or not torch.is_grad_enabled():
            return None
        if isinstance(output, Tensor) and output._is_view():
            # An activation in place would cut a view off from its gradient. None of our layers' backward
            # passes needs the output's values, so that the view need not be copied to stand alone.
            output = torch.ops.aten._unsafe_view(output, output.shape)
        self.tape.note(layer, _tensors(inputs), output, rule)
        return output

    def _note_in_full(
        self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Tensor | None:
        if self.tape is None or not self.tape.listens or not torch.is_grad_enabled():
            return None
        if isinstance(output, Tensor) and output._is_view():
            output = output.clone()
        axis = self.tape.note(layer, (), output, None)
        rule = in_full(layer, inputs, named, axis=axis)
        self.tape.tap(layer, output, _tensors(inputs), rule, layer.parameters(), axis=axis)
        return output

    @contextmanager
    def looking(self, rows: int) -> Iterator[Tape]:
        """Note the shapes that layers return, wherever their records are."""
        self.tape = tape = Tape(rows, 1, self.names, None, self.same)
        try:
            yield tape
        finally:
            tape.close()
            self.tape = None

    @contextmanager
    def recording(self, rows: int, copies: int) -> Iterator[Tape]:
        """Note what passes, of records * copies = rows, until the end of the block."""
        self.tape = tape = Tape(rows, copies, self.names, self.layout, self.same)
        try:
            with by_onednn(self._linear_layers):
                for layer in self._forwards:
                    layer.forward = partial(FORWARDS[original_type(layer)], layer, tape)
                yield tape
        finally:
            for layer in self._forwards:
                vars(layer).pop("forward", None)
            tape.close()
            self.tape = None


def _watched(module: nn.Module) -> Iterator[nn.Module]:
    """The smallest layers that hold all parameters to train; what holds some beside others is one layer."""
    own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    own = own and original_type(module) not in (DPRNN, DPLSTM, DPGRU)  # they hold their cells' by other names
    if own or original_type(module) in FORWARDS:
        if any(parameter.requires_grad for parameter in module.parameters()):
            yield module
        return
    for child in module.children():
        yield from _watched(child)


def _tensors(inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(each for each in inputs if isinstance(each, Tensor))


@contextmanager
def without_vmap_warning() -> Iterator[None]:
    """Without the word that an operation is done row by row: it is as right, and as fast as can be had."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet")
        yield


def in_full(layer: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any], *, axis: int) -> Rule:
    """The rule of a layer that was called with these arguments; records lie along `axis` of its output.

    Tensors as long as the output along that axis are taken apart by record. A layer that draws
    random numbers would draw others than its forward pass did: functorch raises RuntimeError.
    """
    names = {name: each for name, each in layer.named_parameters() if each.requires_grad}

    def rule(use: Use) -> dict[Tensor, Share]:
        rows = len(use.grads)

        def apart(each: Any) -> bool:
            return isinstance(each, Tensor) and each.dim() > axis and each.shape[axis] == rows

        leaves, tree = torch.utils._pytree.tree_flatten((arguments, dict(named)))
        leaves = [each.detach() if isinstance(each, Tensor) else each for each in leaves]
        places = [position for position, each in enumerate(leaves) if apart(each)]

        def product(values: dict[str, Tensor], own: list[Tensor], dy: Tensor) -> Tensor:
            alone = list(leaves)
            for position, each in zip(places, own, strict=True):
                alone[position] = each.unsqueeze(axis)
            given, keywords = torch.utils._pytree.tree_unflatten(alone, tree)
            output = functional_call(layer, values, given, keywords)
            return (output * dy.unsqueeze(axis)).sum()

        values = {name: each.detach() for name, each in names.items()}
        own = [leaves[position] for position in places]
        with without_vmap_warning():
            found = vmap(grad(product), in_dims=(None, axis, 0))(values, own, use.grads)
        return {
            names[name]: Instantiated.of([sum_copies(wide(each), use.copies)]) for name, each in found.items()
        }

    return rule
