"""What one forward pass notes of every layer, and what the backward pass makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from dptrain.privacy.bookkeeping.linear import linear_in
from dptrain.privacy.bookkeeping.shares import Instantiated, Part, Share
from dptrain.privacy.bookkeeping.uses import NoRule, Rule, Use

Place = tuple[str, int]  # a layer's name, and which of its uses in a forward pass


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Along which axis of each layer's output records lie, and how many positions of each side by side.

    What is not in it has the records on its first axis, one position each.
    """

    axes: Mapping[Place, int] = field(default_factory=dict)
    positions: Mapping[Place, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, fewer: Mapping[Place, torch.Size], more: Mapping[Place, torch.Size], rows: tuple[int, int]
    ) -> Layout:
        """From the shapes that two numbers of rows lead to; raises NoRule where they tell nothing."""
        axes, positions = {}, {}
        for place, shape in more.items():
            small = fewer.get(place)
            if small is None or len(small) != len(shape):
                raise NoRule(f"layer `{place[0]}` is used otherwise for other numbers of rows")
            changed = [axis for axis in range(len(shape)) if small[axis] != shape[axis]]
            if len(changed) != 1:
                raise NoRule(f"layer `{place[0]}` returns {tuple(shape)}, of which no axis is the records")
            (axis,) = changed
            times = small[axis] // rows[0]
            if (small[axis], shape[axis]) != (times * rows[0], times * rows[1]):
                raise NoRule(f"layer `{place[0]}` returns {tuple(shape)}, of which no axis is the records")
            if axis != 0:
                axes[place] = axis
            if times != 1:
                positions[place] = times
        return cls(axes=axes, positions=positions)


class Tape:
    """What one forward pass noted, of rows = records * copies, and what the backward pass made of it.

    `shapes` collects the shapes of what layers returned, by name and use; without a layout, that is all.
    `same` maps a parameter to the one that its shares are those of, where they are not the same.
    """

    def __init__(
        self,
        rows: int,
        copies: int,
        names: Mapping[nn.Module, str],
        layout: Layout | None,
        same: Mapping[Tensor, Tensor] | None = None,
    ) -> None:
        self.rows = rows
        self.copies = copies
        self.shares: dict[Tensor, Share] = {}
        self.shapes: dict[Place, torch.Size] = {}
        self.listens = True  # not while a rule runs a layer once more
        self._names = names
        self._same = same or {}
        self._layout = layout
        self._calls: Counter[nn.Module] = Counter()
        self._uses: Counter[Tensor] = Counter()
        self._ends: list[GradientEdge] = []
        self._hooks: list[RemovableHandle] = []

    def note(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Any, rule: Rule | None) -> int:
        """Remember a layer's inputs until the gradient of its output arrives; the axis of its records.

        Without a rule, only where the records are.
        """
        name, number = self._names.get(layer, ""), self._calls[layer]
        self._calls[layer] += 1
        if not isinstance(output, Tensor):
            raise NoRule(f"layer `{name}` ({type(layer).__name__}) returned {type(output).__name__}")
        place = (name, number)
        self.shapes[place] = output.shape
        if self._layout is None:
            return 0
        axis, positions = self._layout.axes.get(place, 0), self._layout.positions.get(place, 1)
        if output.dim() <= axis or output.shape[axis] != self.rows * positions:
            raise NoRule(
                f"layer `{name}` ({type(layer).__name__}) returned {tuple(output.shape)}, but axis {axis} of "
                f"its output must be the {self.rows} records"
            )
        if rule is not None:
            parameters: list[Tensor] = [each for each in layer.parameters() if each.requires_grad]
            self._wait(layer, inputs, output, rule, parameters, axis=axis, positions=positions)
        return axis

    def tap(
        self,
        layer: nn.Module,
        output: Tensor,
        inputs: tuple[Tensor, ...],
        rule: Rule,
        parameters: Iterable[Tensor | None],
        *,
        axis: int,
    ) -> Tensor:
        """Wait for the gradient of something made inside of a layer, records along this axis."""
        if self._layout is None or not self.listens:
            return output
        positions = output.shape[axis] // self.rows
        if output.shape[axis] != self.rows * positions or not positions:
            raise NoRule(
                f"layer `{self._names.get(layer, '')}` ({type(layer).__name__}) was given sequences of "
                f"which axis {axis} is {output.shape[axis]} long, not the {self.rows} records"
            )
        held = [each for each in parameters if each is not None and each.requires_grad]
        self._wait(layer, inputs, output, rule, held, axis=axis, positions=positions)
        return output

    def linear(
        self,
        layer: nn.Module,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        axis: int,
        outputs: slice | None = None,
        bias_outputs: slice | None = None,
    ) -> Tensor:
        """A product with some outputs of a weight, and of the same or some others of a bias."""
        bias_outputs = outputs if bias_outputs is None else bias_outputs
        output = F.linear(
            inputs,
            weight if outputs is None else weight[outputs],
            bias if bias is None or bias_outputs is None else bias[bias_outputs],
        )
        rule = linear_in(weight, bias, outputs=outputs, bias_outputs=bias_outputs)
        return self.tap(layer, output, (inputs,), rule, (weight, bias), axis=axis)

    def repeated(
        self, layer: nn.Module, weight: Tensor, bias: Tensor | None, *, steps: int, like: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """A product that is taken at each of so many steps, with an output (rows, width) like this one.

        Its gradients at all steps arrive together, at zeros that are added to the outputs.
        """
        zeros = torch.zeros(steps, *like.shape, dtype=like.dtype, device=like.device, requires_grad=True)
        inputs: list[Tensor] = []
        left = list(zeros.unbind(0))

        def rule(use: Use) -> dict[Tensor, Share]:
            whole = Use(layer=layer, inputs=(torch.stack(inputs, 1),), grads=use.grads, copies=use.copies)
            return linear_in(weight, bias)(whole)

        def product(rows: Tensor) -> Tensor:
            inputs.append(rows.detach())
            return F.linear(rows, weight, bias) + left[len(inputs) - 1]

        self.tap(layer, zeros, (), rule, (weight, bias), axis=1)
        return product

    def _wait(
        self,
        layer: nn.Module,
        inputs: tuple[Tensor, ...],
        output: Tensor,
        rule: Rule,
        parameters: list[Tensor],
        *,
        axis: int,
        positions: int,
    ) -> None:
        if not output.requires_grad:
            return
        self._uses.update(self._same.get(each, each) for each in parameters)
        if not any(tensor.requires_grad for tensor in inputs):
            # Nothing to train lies beyond: here the backward pass ends. All else lies on its way.
            self._ends.append(get_gradient_edge(output))
        held = [(tensor.detach(), tensor._version) for tensor in inputs]
        node = output.grad_fn

        def arrived(grads: Tensor) -> None:
            if any(tensor._version != version for tensor, version in held):
                name = self._names.get(layer, "")
                raise RuntimeError(f"layer `{name}`: its input was modified in place after it was used")
            seen = tuple(tensor for tensor, _ in held)
            grads = grads.detach()
            if axis:
                seen = tuple(each.movedim(axis, 0) if each.dim() > axis else each for each in seen)
                grads = grads.movedim(axis, 0)
            use = Use(
                layer=layer,
                inputs=seen,
                grads=grads,
                copies=self.copies * positions,
                saved=_saved_statistics(node),
            )
            held.clear()  # so that inputs can go as soon as nothing needs them
            self.listens = False
            with torch.no_grad():
                for parameter, share in rule(use).items():
                    self._add(parameter, share)
            self.listens = True

        self._hooks.append(output.register_hook(arrived))

    def _add(self, parameter: Tensor, share: Share) -> None:
        parameter = self._same.get(parameter, parameter)
        if self._uses[parameter] > 1 and parameter in self.shares:
            before = self.shares[parameter]
            together = share.beside(before) if isinstance(share, Part) else None
            # The norm of a sum is not the sum of norms: uses are added up in full.
            share = together or Instantiated.of([share.rows() + before.rows()])
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
