from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, seed_key
from dptrain.data.splits import assemble, assignment_key, check_fractions, divide, number_groups

pytestmark = pytest.mark.run


def key(seed: int) -> bytes:
    return seed_key(torch.Generator().manual_seed(seed))


def numbered(numbers: Tensor, labels: Tensor | None = None) -> Records:
    """Records of one input each, this number."""
    return Records(numbers.float()[:, None], torch.zeros(len(numbers)).long() if labels is None else labels)


def parted(records: Records, groups: Tensor | None, seed: int, **shares: float) -> list[list[float]]:
    parts = divide(records, groups, key(seed), **shares)
    return [records.take(part).inputs[:, 0].tolist() for part in parts]


@given(
    groups=st.lists(st.integers(0, 30), min_size=5, max_size=120).filter(lambda ids: len(set(ids)) >= 4),
    seed=st.integers(0, 1000),
    holdout=st.floats(0.01, 0.3),
    test=st.floats(0.01, 0.3),
    grouped=st.booleans(),
)
def test_every_record_once_and_no_patient_in_two_parts(
    groups: list[int], seed: int, holdout: float, test: float, grouped: bool
) -> None:
    """Records of one patient, or of the same inputs, stay together."""
    ids = torch.tensor(groups)
    records = numbered(torch.arange(len(ids)) if grouped else ids)
    try:
        parts = divide(records, ids if grouped else None, key(seed), holdout=holdout, test=test)
    except DataError:
        return
    assert sorted(torch.cat(parts).tolist()) == list(range(len(ids)))
    patients = [set(ids[part].tolist()) for part in parts]
    assert all(patients)
    assert sum(map(len, patients)) == len(set(groups))


@given(
    numbers=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), min_size=30, max_size=90),
    seed=st.integers(0, 1000),
    gone=st.integers(0, 29),
    order=st.randoms(use_true_random=False),
    grouped=st.booleans(),
)
def test_a_unit_less_changes_nothing_for_the_others_nor_does_the_files_order(
    numbers: list[tuple[int, int]], seed: int, gone: int, order, grouped: bool
) -> None:
    def shares(listed: list[tuple[int, int]]) -> list[list[tuple[float, int]]]:
        ids, labels = torch.tensor(listed).T
        records = numbered(ids, labels)
        parts = divide(records, ids if grouped else None, key(seed), holdout=0.3, test=0.3)
        return [
            list(zip(records.inputs[part, 0].tolist(), records.labels[part].tolist(), strict=True))
            for part in parts
        ]

    unit = numbers[gone][0]
    left = [each for place, each in enumerate(numbers) if each[0] != unit] if grouped else [
        each for place, each in enumerate(numbers) if place != gone
    ]  # fmt: skip
    shuffled = list(numbers)
    order.shuffle(shuffled)
    try:
        before, after, other = shares(numbers), shares(left), shares(shuffled)
    except DataError:
        return
    assert before == other
    for part, fewer in zip(before, after, strict=True):
        missing = list(part)
        for each in fewer:
            missing.remove(each)  # nothing is new
        assert not missing or ({each[0] for each in missing} == {unit} if grouped else len(missing) == 1)


def test_fractions_are_chances_and_seed_decides() -> None:
    records = numbered(torch.arange(1000))
    parts = parted(records, None, 1, holdout=0.1, test=0.25)
    for part, share in zip(parts, (0.65, 0.1, 0.25), strict=True):
        assert abs(len(part) - 1000 * share) < 4 * (1000 * share * (1 - share)) ** 0.5
    assert parts == parted(records, None, 1, holdout=0.1, test=0.25)
    assert parts[1] != parted(records, None, 2, holdout=0.1, test=0.25)[1]


def test_the_parts_are_drawn_alike() -> None:
    """Every record is as likely as another to be held out, wherever it stands in the file."""
    held = torch.zeros(20)
    for seed in range(2000):
        try:
            held[divide(numbered(torch.arange(20)), None, key(seed), holdout=0.25, test=0.25)[1]] += 1
        except DataError:  # one in 160
            continue
    expected, deviation = 2000 * 0.25, (2000 * 0.25 * 0.75) ** 0.5
    assert (held - expected).abs().max() < 5 * deviation


def test_a_part_not_wanted_stays_empty_and_nothing_is_read_without_need() -> None:
    class Unread:
        shape = (10, 1)

        def read(self, indices: Tensor) -> Tensor:
            raise AssertionError(f"read {indices}")

    _, held, tested = parted(numbered(torch.arange(100)), None, 0, holdout=0.2, test=0.0)
    assert held
    assert not tested
    unread = Records(Unread(), torch.zeros(10).long())
    assert divide(unread, None, key(0), holdout=0.0, test=0.0)[0].tolist() == list(range(10))
    assert len(divide(unread, torch.arange(10), key(1), holdout=0.5, test=0.0)[0]) < 10


def test_too_few_patients() -> None:
    with pytest.raises(
        DataError, match=r"2 patients .* are too few to divide: by chance none .* choose another"
    ):
        divide(numbered(torch.arange(5)), torch.tensor([0, 0, 0, 1, 1]), key(0), holdout=0.2, test=0.2)


def test_groups_may_be_names_and_keep_their_ids_in_other_company() -> None:
    ids = number_groups(["b", "a", "b"])
    assert ids[0] == ids[2] != ids[1]
    assert number_groups(["c", "é", "b"])[2] == ids[0]
    assert len(number_groups([str(number) for number in range(5000)]).unique()) == 5000
    assert 0 <= int(number_groups(["a", "b", "c", "d"]).min()) < 2**62


def test_a_key_of_ones_own_decides_beside_the_seed(tmp_path: Path) -> None:
    rng, path = torch.Generator().manual_seed(1), tmp_path / "key"
    path.write_bytes(b"\x07" * 32)
    mine = assignment_key(rng, str(path))
    assert mine == assignment_key(torch.Generator().manual_seed(1), str(path))
    assert mine != assignment_key(torch.Generator().manual_seed(2), str(path))
    assert mine != assignment_key(rng, None) == key(1)
    path.write_bytes(b"\x08" * 32)
    assert mine != assignment_key(rng, str(path))
    path.write_bytes(b"secret")
    with pytest.raises(ConfigError, match=r"data\.split_key=.*key holds 6 bytes.* at least 16 random"):
        assignment_key(rng, str(path))
    with pytest.raises(ConfigError, match=r"data\.split_key=.* cannot be read \(.*\); name a file of random"):
        assignment_key(rng, str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.split_key=/dev/zero cannot be read \(it is no file\)"):
        assignment_key(rng, "/dev/zero")  # without end


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
