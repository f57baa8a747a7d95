"""Whether a model can be kept in a form that runs no foreign code."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import torch
from torch import nn

from dptrain.contracts import Inputs
from dptrain.contracts.trees import by_name
from dptrain.tracking.connection import quietly


def exportable(model: nn.Module, example: Inputs) -> bool:
    """Whether torch.export can trace the model, at any batch size."""
    with quietly(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            any_size = by_name(lambda _: {0: torch.export.Dim.AUTO}, example)
            torch.export.export(model, (example,), dynamic_shapes=(any_size,))
        except Exception:  # torch.export has no common error; whatever it was, pickle is the answer
            return False
    return True
