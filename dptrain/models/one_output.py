"""Networks that return several outputs, of which one is trained, released and attacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dptrain.contracts import ConfigError


class OneOutput(nn.Module):
    """A network that returns a mapping or a tuple, and the one of its outputs that counts: a name or a place.

    Raises ConfigError where the network returns no such output. What is a tensor already is passed on: some
    networks return more than that only while they train.

    >>> OneOutput(nn.Linear(2, 3), output=0).output
    0
    """

    def __init__(self, network: nn.Module, output: str | int) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, inputs: Any) -> Any:
        made = self.network(inputs)
        if isinstance(made, Tensor):
            return made
        found = outputs(made)
        places = range(-len(found), len(found)) if isinstance(self.output, int) else ()
        if self.output in found:
            return found[self.output]
        if self.output in places:
            return list(found.values())[int(self.output)]
        raise ConfigError(
            f"model._output_={self.output}: `{type(self.network).__name__}` returns {described(made)}; "
            "name one of these"
        )

    def extra_repr(self) -> str:
        return f"output={self.output!r}"


def inner(network: nn.Module) -> nn.Module:
    """The network itself, whether or not one of its outputs is taken."""
    return network.network if isinstance(network, OneOutput) else network


def outputs(made: Any) -> dict[str | int, Any]:
    """What a network returned, by name or place; empty where it is neither a mapping nor a tuple.

    >>> outputs(("a", "b"))
    {0: 'a', 1: 'b'}
    """
    if isinstance(made, Mapping):
        return dict(made)
    if isinstance(made, tuple | list):
        return dict(zip(getattr(made, "_fields", range(len(made))), made, strict=True))
    return {}


def described(made: Any) -> str:
    """What a network returned, in words: its outputs by name or place, with their shapes.

    >>> import torch
    >>> described({"logits": torch.zeros(2, 3), "hidden": None})
    'several outputs (dict): logits (2, 3), hidden (NoneType)'
    """
    each = (
        f"{name} {tuple(value.shape) if isinstance(value, Tensor) else f'({type(value).__name__})'}"
        for name, value in outputs(made).items()
    )
    kind = type(made).__name__
    return f"several outputs ({kind}): {', '.join(each)}" if outputs(made) else f"what is no tensor ({kind})"
