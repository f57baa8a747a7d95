"""Inputs as rows: the declared bounds of each value, and back to the forms that a model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dptrain.contracts import Forms, Inputs


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


def shaped(rows: Tensor, forms: Forms) -> Inputs:
    """Inputs of these forms from rows (N, width).

    >>> from dptrain.contracts import Form
    >>> shaped(torch.zeros(3, 8), Form(shape=(1, 2, 4))).shape
    torch.Size([3, 1, 2, 4])
    """
    every = list(forms.values()) if isinstance(forms, Mapping) else [forms]
    parts = rows.split([math.prod(form.shape) for form in every], dim=1)
    made = [
        (part.round().long() if form.whole else part).reshape(len(rows), *form.shape)
        for part, form in zip(parts, every, strict=True)
    ]
    return dict(zip(forms, made, strict=True)) if isinstance(forms, Mapping) else made[0]
