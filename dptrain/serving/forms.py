"""Declared bounds of inputs, value by value."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dptrain.contracts import Forms


def bounds_of(forms: Forms) -> tuple[Tensor, Tensor]:
    """The lowest and highest of each value of an input as a row: two tensors (width,)."""
    every = list(forms.values()) if isinstance(forms, Mapping) else [forms]
    widths = [math.prod(form.shape) for form in every]
    low, high = (
        torch.cat(
            [
                torch.full((width,), float(form.bounds[side]))
                for form, width in zip(every, widths, strict=True)
            ]
        )
        for side in (0, 1)
    )
    return low, high
