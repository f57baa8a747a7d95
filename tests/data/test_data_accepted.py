"""What a user's own data class hands over is looked at as ours are, and no value of a record is told."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from dptrain.assembly.records import load_splits
from dptrain.contracts import ConfigError, DataError, Records, Splits, Streams
from dptrain.data.accepted import check_splits
from dptrain.tasks import Ordinal

SECRET = 0.731591


class Rows:
    """Rows that are read when they are asked for; counts how often each is."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs, self.shape, self.times = inputs, tuple(inputs.shape), torch.zeros(len(inputs))

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        self.times[indices] += 1
        return self.inputs[indices]


def records(count: int = 30, **labels: Any) -> Records:
    inputs = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(count))
    return Records(inputs, labels.get("labels", torch.arange(count) % 3))


def splits(**changes: Any) -> Splits:
    values: dict[str, Any] = {
        "name": "own", "source": "made", "train": records(), "holdout": records(12), "test": records(9),
        "classes": ("a", "b", "c"), "bounds": (0.0, 1.0), "mean": (0.5,), "std": (0.25,),
    }  # fmt: skip
    return Splits(**{**values, **changes})


def spoilt(value: float, place: int = 17) -> Records:
    found = records()
    found.inputs[place, 0, 2, 1] = value
    return found


def refused(made: object) -> str:
    with pytest.raises(DataError) as caught:
        check_splits(made, source="my.Data", values=True)
    return str(caught.value)


def test_good_splits_pass_as_they_are() -> None:
    made = splits(
        group_ids=torch.arange(30), holdout_group_ids=torch.arange(100, 112), class_prior=(0.5, 0.25, 0.25)
    )
    assert check_splits(made, source="my.Data", values=True) is made


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": records(labels=torch.arange(30) % 4)}, r"7 labels of train .* the first of record 3"),
        ({"test": records(9, labels=torch.arange(9) - 1)}, "6 labels of test lie outside"),
        ({"train": records(labels=(torch.arange(30) % 3).float())}, r"labels of train are torch\.float32"),
        ({"train": records(labels=(torch.arange(30) % 3).int())}, r"labels of train are torch\.int32"),
        ({"train": records(labels=torch.zeros(30).long())}, "train holds records of one class only"),
        ({"train": spoilt(float("nan"))}, "a value of record 17 of train is not finite"),
        ({"holdout": spoilt(float("inf"))}, "a value of record 17 of holdout is not finite"),
        ({"test": spoilt(1 + SECRET)}, r"a value of record 17 of test lies outside \(0\.0, 1\.0\)"),
        ({"train": Records(torch.ones(30, 1, 4, 4).int(), torch.arange(30) % 3)}, r"train are torch\.int32"),
        ({"holdout": records(0)}, "holdout holds no records"),
        ({"test": records(0)}, "test holds no records"),
        ({"test": Records(torch.rand(9, 1, 5, 5), torch.arange(9) % 3)}, r"of shape \(1, 5, 5\)"),
        ({"public": records(0)}, "public holds no records"),
        ({"holdout": [1, 2]}, "holdout is list"),
        ({"group_ids": torch.arange(29)}, r"group_ids is .*\(29,\); give int64, .* \(30,\)"),
        ({"group_ids": torch.rand(30)}, r"group_ids is torch\.float32"),
        ({"group_ids": torch.arange(30), "holdout_group_ids": torch.arange(20, 32)}, "record 20 has held"),
        ({"group_ids": torch.arange(30), "test_group_ids": torch.arange(25, 34)}, "record 25 has test"),
        ({"test_group_ids": torch.arange(8)}, r"test_group_ids is .*\(8,\); give int64, .* \(9,\)"),
        ({"classes": ("a",)}, "must name two classes or more"),
        ({"classes": ("a", "b", "b")}, "must name two classes or more, each once"),
        ({"bounds": (1.0, 0.0)}, "must be two finite numbers, the lower first"),
        ({"std": (0.0,)}, "must be finite and positive"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values for 1 channels"),
        ({"class_prior": (0.5, 0.5)}, "class_prior"),
        ({"class_prior": (0.5, 0.3, 0.2), "task": Ordinal(classes=3)}, "the task is ordinal; set data.class"),
        ({"subgroups": {"class": ("u",) * 9}}, "subgroups.class is what reports call another part"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_named(changes: dict[str, Any], says: str) -> None:
    said = refused(splits(**changes))
    assert re.search(says, said), said
    assert "`my.Data`" in said
    assert str(SECRET)[:5] not in said


@pytest.mark.parametrize(
    "changes",
    [
        {"train": None}, {"holdout": "x"}, {"classes": None}, {"bounds": None}, {"bounds": (0.0, 0.5, 1.0)},
        {"bounds": "ab"}, {"mean": None}, {"std": "x"}, {"subgroups": "ab"}, {"task": "x"},
        {"group_ids": list(range(30))}, {"class_prior": "abc"}, {"bounds_by_name": {"a": None}},
        {"train": Records(torch.rand(30, 1, 4, 4, device="meta"), torch.arange(30) % 3)},
        {"train": Records(torch.rand(30, 1, 4, 4).to_sparse(), torch.arange(30) % 3)},
        {"train": Records(torch.rand(30, 1, 4, 4, requires_grad=True), torch.arange(30) % 3)},
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_named(changes: dict[str, Any]) -> None:
    assert next(iter(changes)) in refused(splits(**changes))


@pytest.mark.parametrize(("inputs", "labels"), [(torch.tensor(1.0), torch.zeros(1)), (torch.zeros(1), 1)])
def test_records_of_no_rows_are_refused(inputs: Any, labels: Any) -> None:
    with pytest.raises(DataError, match="a record"):
        Records(inputs, labels)


def test_everything_wrong_is_told_at_once() -> None:
    said = refused(splits(std=(0.0,), holdout=records(0)))
    assert len(said.splitlines()) == 2


def test_no_splits_at_all() -> None:
    assert "load returned dict" in refused({})


def test_lazy_sources_are_read_once_and_in_part() -> None:
    lazy = Rows(torch.rand(3000, 1, 4, 4))
    made = splits(train=Records(lazy, torch.arange(3000) % 3))
    check_splits(made, source="my.Data", values=True)
    assert lazy.times.eq(1).all()
    check_splits(made, source="dptrain.data.Ours", values=False)
    assert lazy.times.eq(1).all(), "ours have looked themselves"


class Own:
    def __init__(self, made: object) -> None:
        self.made = made

    def load(self, rng: torch.Generator) -> Splits:  # noqa: ARG002
        if isinstance(self.made, Exception):
            raise self.made
        assert isinstance(self.made, Splits)
        return dataclasses.replace(self.made)


def test_a_users_source_is_looked_at_and_its_errors_quote_no_cell() -> None:
    streams = Streams(seed=0)
    assert load_splits(Own(splits()), streams).name == "own"
    with pytest.raises(DataError, match="record 17 of train is not finite"):
        load_splits(Own(splits(train=spoilt(float("nan")))), streams)
    with pytest.raises(DataError, match=r"failed \(ValueError at test_data_accepted\.py:\d+\)") as caught:
        load_splits(Own(ValueError(f"could not convert string to float: 'Jane Doe, {SECRET}'")), streams)
    assert "Jane" not in str(caught.value)
    with pytest.raises(ConfigError, match="mine"):
        load_splits(Own(ConfigError("mine")), streams)
