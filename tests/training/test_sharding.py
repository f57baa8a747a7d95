"""A model that is divided among processes is trained as by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ranked import Fit, trainer
from torch import Tensor

from dptrain.contracts import Context, Splits
from dptrain.training.processes import Ranks

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Two processes that help this one."""
    with Ranks(3, seconds=60, threads=1, sharded=True) as started:
        yield started


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


CASES: dict[str, dict[str, Any]] = {"records": {}}


@pytest.mark.parametrize("case", CASES)
def test_three_processes_release_bit_for_bit_what_one_does(
    train: Fit, ranks: Ranks, flat: Callable[..., Tensor], case: str
) -> None:
    options = dict(CASES[case])
    (alone, _), (together, said) = train(None, **options), train(ranks, **options)
    assert torch.equal(flat(alone.weights), flat(together.weights))
    assert alone.published == together.published
    assert "3 processes computed the training" in said.statement().outside_guarantee[-1]
