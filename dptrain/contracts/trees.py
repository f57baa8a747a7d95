"""Inputs of a model: one tensor, or several by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts.devices import waits

Inputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What one input of a record is like: its shape, its declared bounds, whether it holds whole numbers."""

    shape: tuple[int, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    whole: bool = False


Forms = Form | Mapping[str, Form]


def by_name(function: Callable[..., Any], first: Any, *more: Any) -> Any:
    """A function of tensors, carried out name by name.

    >>> by_name(torch.add, {"a": torch.tensor(1)}, {"a": torch.tensor(2)})
    {'a': tensor(3)}
    """
    if isinstance(first, Mapping):
        return {name: function(value, *(other[name] for other in more)) for name, value in first.items()}
    return function(first, *more)


def leaves(inputs: Any) -> list[Any]:
    """The tensors of these inputs, in the order of their names."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def count(inputs: Inputs) -> int:
    """How many records these are."""
    return len(leaves(inputs)[0])


def moved(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """On this device, numbers with a fraction in this type; whole numbers, such as token ids, stay so."""

    def there(one: Tensor) -> Tensor:
        meanwhile = not waits(one, device)
        if one.is_floating_point():
            return one.to(device, dtype, non_blocking=meanwhile)
        return one.to(device, non_blocking=meanwhile)

    return by_name(there, inputs)


def parts(inputs: Inputs, size: int) -> list[Any]:
    """These inputs, so many records at a time."""
    if isinstance(inputs, Tensor):
        return list(inputs.split(size))
    return [by_name(lambda one, at=at: one[at : at + size], inputs) for at in range(0, count(inputs), size)]
