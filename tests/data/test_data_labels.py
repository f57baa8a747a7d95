"""Declared labels: classes in an order or not, several, or numbers; from npz files and from tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dptrain.contracts import ConfigError, DataError
from dptrain.data import draft
from dptrain.data.labels import Target, within
from dptrain.data.npz import Npz
from dptrain.data.tabular import Tabular
from dptrain.tasks import MultiLabel, Ordinal, Regression

COLUMNS = {"bmi": {"kind": "number", "bounds": [10, 60]}, "age": {"kind": "number", "bounds": [17, 90]}}


def npz(folder: Path, labels: np.ndarray, **fields: Any) -> Npz:
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4), dtype=np.uint8)
    np.savez(folder / "data.npz", train_images=images, train_labels=labels)
    return Npz(path=str(folder / "data.npz"), mean=[0.5], std=[0.25], **fields)


def table(folder: Path, cells: dict[str, Any] | None = None, **fields: Any) -> Tabular:
    rng = np.random.default_rng(1)
    made = {"bmi": rng.integers(10, 60, 80), "age": rng.integers(17, 91, 80), "a": rng.integers(0, 2, 80)}
    made |= {"b": rng.integers(0, 2, 80), **(cells or {})}
    pd.DataFrame(made).to_csv(folder / "t.csv", index=False)
    return Tabular(path=str(folder / "t.csv"), columns=COLUMNS, **fields)


def test_an_npz_file_holds_several_labels_numbers_or_grades(tmp_path: Path, rng: torch.Generator) -> None:
    labels = np.random.default_rng(1).integers(0, 2, (60, 3))
    splits = npz(tmp_path, labels, task="multi_label", classes=["a", "b", "c"]).load(rng)
    assert splits.task == MultiLabel(labels=3, names=("a", "b", "c"))
    assert splits.train.labels.shape[1] == 3
    assert splits.train.labels.dtype == torch.float32
    splits = npz(tmp_path, np.linspace(0, 9, 60), task="regression", target_bounds=[0, 9]).load(rng)
    assert splits.task == Regression(bounds=(0.0, 9.0))
    assert splits.train.labels.ndim == 1
    splits = npz(tmp_path, np.arange(60) % 4, task="ordinal", classes=list("wxyz")).load(rng)
    assert splits.task == Ordinal(classes=4, names=tuple("wxyz"))


@pytest.mark.parametrize(
    ("labels", "fields", "says"),
    [
        (np.zeros((9, 3), int), {"classes": ["a", "b"]}, r"\(9, 3\).* declare data.task=multi_label"),
        (np.linspace(0, 1, 9), {"classes": ["a", "b"]}, "declare data.task=regression"),
        (np.zeros((9, 2)), {"classes": ["a", "b", "c"], "task": "multi_label"}, "each of the 3 labels"),
        (np.full((9, 2), 2), {"classes": ["a", "b"], "task": "multi_label"}, "other values than 0"),
        (np.full((9, 2), np.nan), {"classes": ["a", "b"], "task": "multi_label"}, "other values than 0"),
        (np.zeros((60, 2)), {"classes": ["a", "b"], "task": "multi_label"}, "the same multi_label label"),
        (np.full(60, 3.0), {"task": "regression", "target_bounds": [0, 9]}, "the same regression label"),
        *(
            (np.array([1.0, bad, 2.0]), {"task": "regression", "target_bounds": [0, 9]}, says)
            for bad, says in (
                (np.nan, "record 1 .* is not finite"),
                (np.inf, "record 1 .* is not finite"),
                (9.5, r"record 1 .* is outside data.target_bounds=\[0.0, 9.0\]"),
            )
        ),
    ],
)  # fmt: skip
def test_labels_that_are_not_as_declared(
    tmp_path: Path, rng: torch.Generator, labels: np.ndarray, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        npz(tmp_path, labels, **fields).load(rng)


@pytest.mark.parametrize(
    ("task", "classes", "bounds", "says"),
    [
        ("counts", ["a", "b"], None, "data.task=counts must be one of classification, multi_label, ordinal"),
        ("regression", ["a", "b"], [0, 1], "data.classes=.* of which data.task=regression has none"),
        ("regression", None, None, "data.target_bounds=null must be the lowest and the highest target"),
        ("regression", None, [1, 0], r"data.target_bounds=\[.* two finite numbers"),
        ("regression", None, [0, float("inf")], r"data.target_bounds=\[.* two finite numbers"),
        ("ordinal", ["a", "b"], [0, 1], "data.target_bounds=.* are those of a number"),
        ("multi_label", None, None, "data.classes=null: name the classes"),
    ],
)  # fmt: skip
def test_declarations_that_contradict_themselves(task: str, classes: Any, bounds: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Target.of(task, classes=classes, bounds=bounds)


@given(low=st.floats(-1e6, 1e6), width=st.floats(0.5, 1e6), place=st.floats(0, 1))
def test_rounding_never_leaves_the_bounds(low: float, width: float, place: float) -> None:
    bounds = low, low + width
    numbers = np.clip(np.array([bounds[0], bounds[0] + place * width, bounds[1]]), *bounds)
    assert Regression(bounds=bounds).problem(within(numbers, bounds)) is None


def test_a_table_has_a_number_several_columns_or_grades_for_a_target(tmp_path: Path, rng: Any) -> None:
    splits = table(tmp_path, task="regression", target="age", ignored=["a", "b"]).load(rng)
    assert splits.task == Regression(bounds=(17.0, 90.0))
    assert splits.classes == ("age",)
    assert splits.shape == (1,)
    raw = pd.read_csv(tmp_path / "t.csv")
    pairs = {(round(10 + 50 * float(x), 3), float(y)) for x, y in zip(*(
        torch.cat([getattr(getattr(splits, part), what) for part in ("train", "holdout", "test")])
        for what in ("inputs", "labels")
    ), strict=True)}  # fmt: skip
    assert pairs == {(float(b), float(a)) for b, a in zip(raw["bmi"], raw["age"], strict=True)}
    splits = table(tmp_path, task="multi_label", target=["a", "b"]).load(rng)
    assert splits.task == MultiLabel(labels=2, names=("a", "b"))
    assert splits.train.labels.shape[1] == 2
    fields = {"target": "a", "classes": [0, 1], "ignored": ["b"]}
    assert table(tmp_path, task="ordinal", **fields).load(rng).task == Ordinal(classes=2, names=("0", "1"))
    assert table(tmp_path, task="multi_label", target=["a", "b"]).declare(200).train.labels.shape == (200, 2)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"target": "a", "task": "multi_label"}, "name a list of columns of 0 and 1"),
        ({"target": ["a", "b"]}, "declare data.task=multi_label, or name one column"),
        ({"target": "a", "ignored": ["b"]}, "data.task=regression with data.target_bounds"),
        ({"target": "a", "task": "regression"}, "data.target_bounds=null must be"),
    ],
)  # fmt: skip
def test_a_table_says_what_to_declare(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        table(tmp_path, **fields)


def test_cells_of_a_number_are_told_by_their_place_alone(tmp_path: Path, rng: Any) -> None:
    cells = {"age": [123.0, *[40.0] * 79]}
    with pytest.raises(DataError, match=r"line 2: age is outside the declared bounds \[17, 90\]") as told:
        table(tmp_path, cells, task="regression", target="age", ignored=["a", "b"]).load(rng)
    assert "123" not in str(told.value)


def test_a_draft_guesses_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path, target=["a", "b"], task="multi_label")
    written = {
        "encoding": "utf-8",
        "delimiter": ",",
        "decimal": ".",
        "sheet": None,
        "root": None,
        "cache": None,
    }
    path = draft.write_draft({"path": "t.csv", "target": "age", **written})
    drafted = yaml.safe_load(path.read_text())
    assert (drafted["task"], drafted["target_bounds"], drafted["classes"]) == (
        "regression",
        ["???", "???"],
        None,
    )
    path.unlink()
    drafted = yaml.safe_load(draft.write_draft({"path": "t.csv", "target": "a", **written}).read_text())
    assert "task" not in drafted
    assert drafted["classes"] == ["???"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": []},
        {"target": None},
        {"target": 5},
        {"target": [None]},
        {"task": "regresion"},
        {"subgroups": None},
        {"subgroups": "age"},
        {"sensitive": "age"},
        {"ignored": None},
        {"target_bounds": 5},
        {"task": "multi_label", "target": ["a", "b"], "classes": None, "target_bounds": [0, 1]},
        *(
            {"task": "regression", "classes": None, "target_bounds": bounds}
            for bounds in (
                5,
                "12",
                [9, 0],
                [0, float("nan")],
                [0, "1"],
                [1, 2, 3],
                [True, 2],
            )
        ),
        *(
            {"task": "regression", "classes": None, "target_bounds": bounds}
            for bounds in ([1e9, 1e9 + 1], [-3e38, 3e38], [0, 1e-40])
        ),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_by_its_key_before_a_table_is_read(wrong: Any) -> None:
    key = "target_bounds" if "target_bounds" in wrong else next(iter(wrong))
    fields = {"target": "a", "classes": [0, 1], **wrong}
    with pytest.raises(ConfigError, match=rf"^data\.{key}=.*(must|are)"):
        Tabular(path="nowhere.csv", columns=COLUMNS, **fields)


@pytest.mark.parametrize("name", ["all", "class", "label"])
def test_a_subgroup_is_called_by_no_name_that_reports_use(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data.subgroups={name} is what reports call"):
        Tabular(
            path="nowhere.csv",
            columns={**COLUMNS, name: {"kind": "category", "categories": ["u", "v"]}},
            target="a",
            classes=[0, 1],
            subgroups=[name],
        )
