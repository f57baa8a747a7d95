"""A model whose layers leave behind what per-record clipping needs, in one backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.layers.dp_multihead_attention import SequenceBias
from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN, RNNLinear
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from dptrain.contracts import ConfigError, MadeKernels
from dptrain.privacy.bookkeeping.attention import records_axis, sequence_bias
from dptrain.privacy.bookkeeping.convolution import convolution
from dptrain.privacy.bookkeeping.embedding import embedding
from dptrain.privacy.bookkeeping.linear import linear
from dptrain.privacy.bookkeeping.made_kernels import made_kernels
from dptrain.privacy.bookkeeping.normalisation import group_norm, instance_norm, layer_norm, rms_norm
from dptrain.privacy.bookkeeping.other import opacus_rule, tell
from dptrain.privacy.bookkeeping.products import by_onednn
from dptrain.privacy.bookkeeping.shares import Instantiated, Share
from dptrain.privacy.bookkeeping.uses import Rule, Use

# By exact type: a subclass may compute something else.
RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: linear,
    RNNLinear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.GroupNorm: group_norm,
    nn.InstanceNorm1d: instance_norm,
    nn.InstanceNorm2d: instance_norm,
    nn.InstanceNorm3d: instance_norm,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.Embedding: embedding,
    SequenceBias: sequence_bias,
}


class BookkeepingModule(GradSampleModule):
    """Opacus' wrapper, of the same layers, with another way to their gradients.

    Within `recording` a forward pass notes the inputs of each layer; `Tape.backward` then
    computes the gradients of their outputs only, and forms shares as they arrive.
    """

    tape: Tape | None = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, loss_reduction="sum")

    def add_hooks(self, **_: Any) -> None:
        """Note the inputs of every layer with parameters to train; Opacus chooses which these are."""
        if hasattr(self._module, "autograd_grad_sample_hooks"):
            raise ValueError("the model is hooked already; unwrap it with `to_standard_module` first")
        names = {module: name for name, module in self._module.named_modules()}
        handles: list[RemovableHandle] = []
        self._module.autograd_grad_sample_hooks = self.autograd_grad_sample_hooks = handles
        self._linear_layers: list[nn.Linear] = []
        others: dict[str, list[str]] = {}
        for layer in dict.fromkeys(self.iterate_submodules(self._module)):  # one may have several parents
            if type(layer) in (DPRNN, DPLSTM, DPGRU):
                continue  # made of RNNLinear layers, which come by themselves
            rule = RULES.get(type(layer))
            if isinstance(layer, MadeKernels) and layer.as_promised:
                rule = made_kernels
            if rule is None:
                others.setdefault(type(layer).__name__, []).append(f"`{names[layer]}`")
                rule = opacus_rule(layer, self.GRAD_SAMPLERS)
            if type(layer) is nn.Linear and "forward" not in vars(layer):
                self._linear_layers.append(layer)
            handles.append(layer.register_forward_hook(partial(self._note, rule=rule, name=names[layer])))
        tell(others)
        self.enable_hooks()

    def _note(
        self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, rule: Rule, name: str
    ) -> Tensor | None:
        if self.tape is None or not torch.is_grad_enabled():
            return None
        if isinstance(output, Tensor) and output._is_view():
            # An activation in place would cut a view off from its gradient. None of our layers' backward
            # passes needs the output's values, so that the view need not be copied to stand alone.
            output = (
                torch.ops.aten._unsafe_view(output, output.shape) if type(layer) in RULES else output.clone()
            )
        self.tape.note(layer, inputs, output, rule=rule, name=name)
        return output

    @contextmanager
    def recording(self, rows: int, copies: int) -> Iterator[Tape]:
        """Note what passes, of records * copies = rows, until the end of the block."""
        self.tape = Tape(rows, copies)
        try:
            with by_onednn(self._linear_layers):
                yield self.tape
        finally:
            self.tape.close()
            self.tape = None


class Tape:
    """What one forward pass noted, and what the backward pass made of it."""

    def __init__(self, rows: int, copies: int) -> None:
        self.rows = rows
        self.copies = copies
        self.shares: dict[Tensor, Share] = {}
        self._uses: Counter[Tensor] = Counter()
        self._ends: list[GradientEdge] = []
        self._hooks: list[RemovableHandle] = []

    def note(
        self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, rule: Rule, name: str
    ) -> None:
        """Remember a layer's inputs until the gradient of its output arrives."""
        if not isinstance(output, Tensor) or output.shape[records_axis(layer)] != self.rows:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(
                f"model: layer `{name}` ({type(layer).__name__}) returned {shape}, but the first axis of "
                f"every layer's output must be the {self.rows} records; use batch_first=True, or expand "
                "what all records share to one copy a record"
            )
        if not output.requires_grad:
            return
        inputs = tuple(tensor for tensor in inputs if isinstance(tensor, Tensor))
        self._uses.update(parameter for parameter in layer.parameters() if parameter.requires_grad)
        if not any(tensor.requires_grad for tensor in inputs):
            # Nothing to train lies beyond: here the backward pass ends. All else lies on its way.
            self._ends.append(get_gradient_edge(output))
        held = [(tensor.detach(), tensor._version) for tensor in inputs]
        node = output.grad_fn

        def arrived(grads: Tensor) -> None:
            if any(tensor._version != version for tensor, version in held):
                raise RuntimeError(f"layer `{name}`: its input was modified in place after it was used")
            use = Use(
                layer=layer,
                inputs=tuple(tensor for tensor, _ in held),
                grads=grads.detach(),
                copies=self.copies,
                saved=_saved_statistics(node),
            )
            held.clear()  # so that inputs can go as soon as nothing needs them
            with torch.no_grad():
                for parameter, share in rule(use).items():
                    self._add(parameter, share)

        self._hooks.append(output.register_hook(arrived))

    def _add(self, parameter: Tensor, share: Share) -> None:
        if self._uses[parameter] > 1:
            # The norm of a sum is not the sum of norms: uses are added up in full.
            rows = share.rows()
            if parameter in self.shares:
                rows = rows + self.shares[parameter].rows()
            share = Instantiated.of([rows])
        self.shares[parameter] = share

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of all layer outputs, each turned into shares as it arrives."""
        if self._ends:
            torch.autograd.grad(loss, self._ends, allow_unused=True)

    def close(self) -> None:
        """Let go of the graph, whose hooks hold this tape: Python's collector does not see that circle."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._ends.clear()


def _saved_statistics(node: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and reciprocal standard deviation that GroupNorm's forward pass keeps for its backward."""
    if type(node).__name__ != "NativeGroupNormBackward0":
        return None
    return node._saved_result1, node._saved_result2
