"""Fixtures of trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ranked import Fit, trainer

from dptrain.contracts import Context, Splits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the helpers have: how sums are rounded depends on how they are computed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def train(splits: Splits, settings_of: Callable[..., Any], context_of: Callable[..., Context]) -> Fit:
    return trainer(splits, settings_of, context_of)
