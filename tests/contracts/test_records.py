"""Records that are read when they are asked for are the same as those in memory, and are not read before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dptrain.contracts import DataError, Records


class Shelf:
    """Rows that remember how many were read at once, and refuse to be read by a whole shelf."""

    def __init__(self, inputs: Tensor, most: int) -> None:
        self.inputs, self.most, self.read_at_once = inputs, most, []
        self.shape = tuple(inputs.shape)

    def read(self, indices: Tensor) -> Tensor:
        assert len(indices) <= self.most, "read far more than was asked for"
        self.read_at_once.append(len(indices))
        return self.inputs[indices]


@pytest.fixture
def pair(rng):
    """The same records on a shelf and in memory."""
    inputs, labels = torch.rand(50, 2, 3, generator=rng), torch.randint(3, (50,), generator=rng)
    return Records(Shelf(inputs, most=10), labels), Records(inputs, labels)


def same(some: Records, others: Records) -> bool:
    return torch.equal(some.inputs, others.inputs) and torch.equal(some.labels, others.labels)


def test_choosing_and_joining_reads_nothing(pair, rng):
    lazy, held = pair
    order = torch.randperm(50, generator=rng)
    some = lazy.take(order).and_more(held.take(order[:4])).take(torch.arange(54).flip(0))
    assert len(some) == 54
    assert some.shape == held.shape == (2, 3)
    assert not some.in_memory
    assert lazy._rows[""].read_at_once == []


def test_any_mixture_reads_as_it_would_in_memory(pair, rng):
    lazy, held = pair
    for _ in range(20):
        order = torch.randperm(50, generator=rng)
        more = torch.randint(50, (6,), generator=rng)
        chosen = torch.randint(56, (9,), generator=rng)
        mixed = [
            first.take(order).and_more(second.take(more)).take(chosen)
            for first, second in ((lazy, lazy), (lazy, held), (held, lazy), (held, held))
        ]
        assert all(same(each, mixed[-1]) for each in mixed)
        assert [each.in_memory for each in mixed] == [False, False, False, True]


def test_batches_go_over_all_in_order_a_few_at_a_time(pair):
    lazy, held = pair
    batches = list(lazy.batches(8))
    assert [len(batch) for batch in batches] == [8] * 6 + [2]
    assert all(batch.in_memory for batch in batches)
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), held.inputs)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), held.labels)


def test_single_records_and_new_labels(pair):
    lazy, held = pair
    assert torch.equal(lazy[7][0], held[7][0])
    assert lazy[7][1] == held[7][1]
    other = lazy.take(torch.arange(5)).labelled(torch.zeros(5, dtype=torch.int64))
    assert same(other, Records(held.inputs[:5], torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(DataError, match="50 inputs but 3 labels"):
        lazy.labelled(torch.zeros(3))


def test_a_hash_does_not_depend_on_where_records_are_kept_and_reads_them_once(rng):
    inputs, labels = torch.rand(3000, 4, generator=rng), torch.randint(3, (3000,), generator=rng)
    lazy, held = Records(Shelf(inputs, most=1024), labels), Records(inputs, labels)
    assert lazy.hashed().hexdigest() == held.hashed().hexdigest() == lazy.hashed().hexdigest()
    assert sum(lazy._rows[""].read_at_once) == 3000
    moved = inputs.clone()
    moved[2999, 3] += 1e-6
    assert Records(moved, labels).hashed().hexdigest() != held.hashed().hexdigest()
    assert held.labelled(labels.flip(0)).hashed().hexdigest() != held.hashed().hexdigest()
