"""PyTorch's recurrent layers and cells, step by step, leaving behind what clipping needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dptrain.privacy.bookkeeping.uses import NoRule

if TYPE_CHECKING:
    from dptrain.privacy.bookkeeping.tape import Tape

State = tuple[Tensor, ...]  # hidden, and for an LSTM the cell's
Step = Callable[[Tensor, Callable[[Tensor], Tensor], State], State]  # gates of the input, of a state; state


def recurrent(layer: nn.RNNBase, tape: Tape, inputs: Any, state: Any = None) -> tuple[Tensor, Any]:
    """The outputs of `nn.RNN`, `nn.GRU` or `nn.LSTM`, of all layers and both directions."""
    if not isinstance(inputs, Tensor) or inputs.dim() != 3:
        raise NoRule("packed sequences, or one without an axis of records")
    sequence = inputs.transpose(0, 1) if layer.batch_first else inputs
    rows = sequence.shape[1]
    lstm = layer.mode == "LSTM"
    directions = 2 if layer.bidirectional else 1
    widths = (layer.proj_size or layer.hidden_size, layer.hidden_size) if lstm else (layer.hidden_size,)
    if state is None:
        count = layer.num_layers * directions
        state = tuple(sequence.new_zeros(count, rows, width) for width in widths)
    first: State = tuple(state) if lstm else (state,) if isinstance(state, Tensor) else state
    last: list[State] = []
    for depth in range(layer.num_layers):
        outputs = []
        for direction in range(directions):
            number = depth * directions + direction
            start = tuple(each[number] for each in first)
            found, end = _one_way(layer, tape, sequence, start, depth, backwards=direction == 1)
            outputs.append(found)
            last.append(end)
        sequence = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
        if layer.dropout > 0 and depth < layer.num_layers - 1:
            sequence = F.dropout(sequence, layer.dropout, layer.training)
    ends = tuple(torch.stack(each) for each in zip(*last, strict=True))
    output = sequence.transpose(0, 1) if layer.batch_first else sequence
    return output, ends if lstm else ends[0]


def _one_way(
    layer: nn.RNNBase, tape: Tape, sequence: Tensor, state: State, depth: int, *, backwards: bool
) -> tuple[Tensor, State]:
    """Outputs (length, rows, width) of one layer in one direction, and the state that it ends in."""
    suffix = f"_l{depth}{'_reverse' if backwards else ''}"
    weights: dict[str, Any] = {
        name: getattr(layer, f"{name}{suffix}", None)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    }
    length, rows = sequence.shape[:2]
    seen = tape.linear(layer, sequence, weights["weight_ih"], weights["bias_ih"], axis=1).unbind(0)
    again = tape.repeated(layer, weights["weight_hh"], weights["bias_hh"], steps=length, like=seen[0])
    project = None
    if weights["weight_hr"] is not None:
        narrow = seen[0].new_empty(rows, layer.proj_size)
        project = tape.repeated(layer, weights["weight_hr"], None, steps=length, like=narrow)
    step = _STEPS[layer.mode]
    outputs: list[Tensor] = [seen[0]] * length
    for at in reversed(range(length)) if backwards else range(length):
        state = step(seen[at], again, state)
        if project is not None:
            state = (project(state[0]), *state[1:])
        outputs[at] = state[0]
    return torch.stack(outputs), state


def cell(layer: nn.RNNCellBase, tape: Tape, inputs: Tensor, state: Any = None) -> Any:
    """The new state of `nn.RNNCell`, `nn.GRUCell` or `nn.LSTMCell`."""
    if inputs.dim() != 2:
        raise NoRule("an input without an axis of records")
    lstm = isinstance(layer, nn.LSTMCell)
    if state is None:
        zeros = inputs.new_zeros(len(inputs), layer.hidden_size)
        state = (zeros, zeros) if lstm else zeros
    mode = "LSTM" if lstm else "GRU"
    if isinstance(layer, nn.RNNCell):
        mode = f"RNN_{layer.nonlinearity.upper()}"
    seen = tape.linear(layer, inputs, layer.weight_ih, layer.bias_ih, axis=0)

    def again(hidden: Tensor) -> Tensor:
        return tape.linear(layer, hidden, layer.weight_hh, layer.bias_hh, axis=0)

    found = _STEPS[mode](seen, again, state if lstm else (state,))
    return found if lstm else found[0]


def _lstm(seen: Tensor, again: Callable[[Tensor], Tensor], state: State) -> State:
    hidden, memory = state
    enter, forget, value, show = (seen + again(hidden)).chunk(4, dim=1)
    memory = forget.sigmoid() * memory + enter.sigmoid() * value.tanh()
    return show.sigmoid() * memory.tanh(), memory


def _gru(seen: Tensor, again: Callable[[Tensor], Tensor], state: State) -> State:
    (hidden,) = state
    reset, update, new = seen.chunk(3, dim=1)
    reset_again, update_again, new_again = again(hidden).chunk(3, dim=1)
    keep = (update + update_again).sigmoid()
    candidate = (new + (reset + reset_again).sigmoid() * new_again).tanh()
    return (candidate + keep * (hidden - candidate),)


_STEPS: dict[str, Step] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN_TANH": lambda seen, again, state: ((seen + again(state[0])).tanh(),),
    "RNN_RELU": lambda seen, again, state: ((seen + again(state[0])).relu(),),
}
