from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dptrain.contracts import ConfigError, DataError, Records
from dptrain.data.splits import assemble, check_fractions, divide, number_groups


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    groups=st.lists(st.integers(0, 30), min_size=5, max_size=120).filter(lambda ids: len(set(ids)) >= 4),
    seed=st.integers(0, 1000),
    holdout=st.floats(0.01, 0.3),
    test=st.floats(0.01, 0.3),
)
def test_every_record_once_and_no_patient_in_two_parts(
    groups: list[int], seed: int, holdout: float, test: float
) -> None:
    ids = torch.tensor(groups)
    parts = divide(ids, seeded(seed), holdout=holdout, test=test)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(ids)))
    patients = [set(ids[part].tolist()) for part in parts]
    assert all(patients)
    assert sum(map(len, patients)) == len(set(groups))


def test_fractions_are_of_patients_and_seed_decides() -> None:
    parts = divide(torch.arange(1000), seeded(1), holdout=0.1, test=0.25)
    assert [len(part) for part in parts] == [650, 100, 250]
    again = divide(torch.arange(1000), seeded(1), holdout=0.1, test=0.25)
    other = divide(torch.arange(1000), seeded(2), holdout=0.1, test=0.25)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[1], other[1])


def test_the_parts_are_drawn_alike() -> None:
    """Every record is as likely as another to be held out, wherever it stands in the file."""
    held = torch.zeros(20)
    for seed in range(2000):
        held[divide(torch.arange(20), seeded(seed), holdout=0.25, test=0.25)[1]] += 1
    expected, deviation = 2000 * 0.25, (2000 * 0.25 * 0.75) ** 0.5
    assert (held - expected).abs().max() < 5 * deviation


def test_a_part_not_wanted_stays_empty() -> None:
    assert [len(part) for part in divide(torch.arange(10), seeded(0), holdout=0.2, test=0.0)] == [8, 2, 0]


def test_too_few_patients() -> None:
    with pytest.raises(DataError, match=r"2 patients \(or records\) are too few"):
        divide(torch.tensor([0, 0, 0, 1, 1]), seeded(0), holdout=0.2, test=0.2)


def test_groups_may_be_names() -> None:
    assert number_groups(["b", "a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("holdout", "test", "says"),
    [
        (0.0, 0.2, r"data.holdout_fraction=0.0 must be in \(0, 1\)"),
        (0.2, 1.5, r"data.test_fraction=1.5 must be in \(0, 1\)"),
        (0.5, 0.5, "leave nothing to train on"),
    ],
)
def test_fractions_that_cannot_be(holdout: float, test: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_fractions(holdout_fraction=holdout, test_fraction=test)


def test_parts_of_different_shape_do_not_fit_together() -> None:
    small, large = (Records(torch.zeros(2, 1, side, side), torch.tensor([0, 1])) for side in (4, 8))
    with pytest.raises(
        DataError, match=r"test images of x have shape \(1, 8, 8\) but the training images have"
    ):
        assemble(
            name="x",
            source="",
            train=small,
            holdout=small,
            test=large,
            classes=["a", "b"],
            mean=[0.5],
            std=[0.25],
        )
