from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.columns import Date, Number
from dptrain.data.npz import Npz, _texts
from dptrain.data.raw_pixels import read
from dptrain.data.sensitive import sensitive


def own(count: int = 60) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "train_images": random.integers(0, 256, (count, 6, 5), dtype=np.uint8),
        "train_labels": np.arange(count) % 2,
    }


def load(folder: Path, arrays: dict[str, np.ndarray], **fields: object) -> Splits:
    np.savez(folder / "own.npz", **arrays)
    settings = {"classes": ["well", "ill"], "mean": [0.5], "std": [0.25]} | fields
    return Npz(path=str(folder / "own.npz"), **settings).load(torch.Generator().manual_seed(0))


def test_a_file_with_training_records_only_is_divided(tmp_path: Path) -> None:
    splits = load(tmp_path, own(), holdout_fraction=0.1, test_fraction=0.2)
    assert len(splits.train) + len(splits.holdout) + len(splits.test) == 60
    assert 30 <= len(splits.train) <= 54
    assert splits.shape == (1, 6, 5)
    assert (splits.name, splits.source) == ("own", str(tmp_path / "own.npz"))
    assert splits.group_ids is None


def test_given_parts_are_kept(tmp_path: Path) -> None:
    arrays = own() | {"test_images": own(8)["train_images"], "test_labels": own(8)["train_labels"]}
    splits = load(tmp_path, arrays, holdout_fraction=0.1)
    assert len(splits.train) + len(splits.holdout) == 60
    assert 1 <= len(splits.holdout) <= 16
    assert len(splits.test) == 8
    arrays |= {"val_images": own(4)["train_images"], "val_labels": own(4)["train_labels"]}
    splits = load(tmp_path, arrays)
    assert (len(splits.train), len(splits.holdout), len(splits.test)) == (60, 4, 8)


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
def test_public_records_are_loaded_beside_the_others(tmp_path: Path, lazy: bool) -> None:
    public = own(6)
    arrays = own() | {"public_images": public["train_images"], "public_labels": public["train_labels"]}
    splits = load(tmp_path, arrays, lazy=lazy)
    assert splits.public is not None
    assert len(splits.train) + len(splits.holdout) + len(splits.test) == 60
    expected = torch.from_numpy(public["train_images"]).unsqueeze(1) / 255
    assert torch.allclose(torch.stack([splits.public[at][0] for at in range(6)]), expected)
    assert splits.public.labels.tolist() == public["train_labels"].tolist()
    assert load(tmp_path, own(), lazy=lazy).public is None
    del arrays["public_labels"]
    with pytest.raises(DataError, match="lacks public_labels: save images and labels"):
        load(tmp_path, arrays, lazy=lazy)


def test_a_patient_is_never_divided(tmp_path: Path) -> None:
    arrays = own()
    patients = np.repeat([f"p{i}" for i in range(20)], 3)
    arrays["train_images"][:, 0, 0] = np.repeat(np.arange(20), 3)
    splits = load(tmp_path, arrays | {"train_groups": patients})
    parts = [
        set((records.inputs[:, 0, 0, 0] * 255).round().int().tolist())
        for records in (splits.train, splits.holdout, splits.test)
    ]
    assert sum(map(len, parts)) == 20
    assert splits.group_ids is not None
    assert len(splits.group_ids) == len(splits.train)
    assert splits.group_ids.unique(return_counts=True)[1].unique().tolist() == [3]
    assert splits.test_group_ids is not None
    assert len(splits.test_group_ids) == len(splits.test)
    assert splits.test_group_ids.unique(return_counts=True)[1].unique().tolist() == [3]
    named = {f"test_{kind}": arrays[f"train_{kind}"][:6] for kind in ("images", "labels")}
    others = {"train_groups": patients, "test_groups": np.repeat(["q1", "q2"], 3)}
    given = load(tmp_path, arrays | named | others).test_group_ids
    assert given is not None
    assert given.unique(return_counts=True)[1].tolist() == [3, 3]
    assert load(tmp_path, arrays | named | {"train_groups": patients}).test_group_ids is None


def test_floats_in_declared_bounds(tmp_path: Path) -> None:
    arrays = own() | {"train_images": np.linspace(-1, 1, 60 * 30).reshape(60, 6, 5)}
    splits = load(tmp_path, arrays, bounds=[-1, 1])
    assert 0.0 <= splits.train.inputs.min() < 0.05
    assert splits.bounds == (0.0, 1.0)


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
@pytest.mark.parametrize("bounds", [[0, 1], [-1, 1], [0, 255], None])
def test_a_service_reads_an_image_as_training_did(
    bounds: list[float] | None, lazy: bool, tmp_path: Path
) -> None:
    arrays = own()
    if bounds is not None:
        arrays["train_images"] = np.random.default_rng(2).uniform(bounds[0], bounds[1], (60, 6, 5))
    given = {f"test_{kind}": arrays[f"train_{kind}"] for kind in ("images", "labels")}
    splits = load(tmp_path, arrays | given, lazy=lazy, **({} if bounds is None else {"bounds": bounds}))
    assert splits.raw is not None
    asked = pd.DataFrame({"image": json.loads(json.dumps(arrays["train_images"].tolist()))})
    made, problems = read(asked, json.loads(json.dumps(splits.raw.settings)))
    assert problems == []
    np.testing.assert_allclose(made, splits.test.take(torch.arange(60)).read().inputs.numpy(), atol=1e-6)


def extended(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return own() | arrays


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (
            extended(train_images=np.full((60, 6, 5), np.nan)),
            "record 0 of train_images of .*own.npz holds NaN",
        ),
        (extended(train_images=np.full((60, 6, 5), 2.0)), "holds a value outside the declared bounds"),
        (extended(train_labels=np.arange(59) % 2), "has 60 records but train_labels has 59"),
        (
            extended(train_labels=np.zeros(60, int)),
            r"the \d+ training records are all of one of the 2 classes",
        ),
        (
            extended(train_labels=np.full(60, 7)),
            "label of record 0 of train_labels of .* lies outside 0 ... 1",
        ),
        (extended(test_images=own(8)["train_images"]), "lacks test_labels: save images and labels"),
        (extended(train_groups=np.arange(3)), "train_groups of .* has 3 records but train_labels has 60"),
        (extended(train_groups=np.zeros((60, 2))), r"train_groups of .* is float64 of shape \(60, 2\)"),
        (
            extended(
                train_groups=np.arange(60),
                test_groups=np.array([70, 8]),
                test_images=own(2)["train_images"],
                test_labels=own(2)["train_labels"],
            ),
            "1 patients are in both train_groups and test_groups of .*, first at records 8 and 1",
        ),
    ],
)
def test_records_that_cannot_be_used(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(tmp_path, arrays)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bounds": [1, 0]}, r"data.bounds=\[1, 0\] must be two numbers, the lower first"),
        ({"classes": ["a", "b", "b"]}, r"data.classes=\['a', 'b', 'b'\] must name .*, each once"),
        (
            {"classes": [True, False]},
            r"data.classes=\[True, False\] must be words or whole numbers; quote yes",
        ),
        (
            {"classes": ["yes", None]},
            "must be words or whole numbers; quote yes, no, true, false and null, e.g.",
        ),
        ({"classes": 3}, "data.classes=3 must be a list of names, in label order"),
        ({"classes": "a,b"}, "data.classes=a,b must be a list of names, in label order"),
        ({"classes": ["all"]}, r"data.classes=\['all'\] must name at least two classes"),
        ({"holdout_fraction": 1.0}, r"data.holdout_fraction=1.0 must be in \(0, 1\)"),
        (
            {"mean": [0.5, 0.5]},
            r"data.mean=\[0.5, 0.5\] must have one value for each of the images' 1 channels",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, own(), **fields)


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
def test_what_test_records_are_told_apart_by_is_read(tmp_path: Path, lazy: bool) -> None:
    arrays = own() | {"test_images": own(4)["train_images"], "test_labels": own(4)["train_labels"]}
    arrays |= {"test_subgroup_scanner": np.array(["A", "B", "A", "B"]), "test_subgroup_ward": np.arange(4)}
    splits = load(tmp_path, arrays, lazy=lazy)
    assert splits.subgroups == {"scanner": ("A", "B", "A", "B"), "ward": ("0", "1", "2", "3")}
    assert load(tmp_path, own(), lazy=lazy).subgroups == {}
    for wrong, said in (
        (
            {"test_subgroup_ward": np.arange(3)},
            "test_subgroup_ward of .* has 3 records but test_labels has 4",
        ),
        ({"test_subgroup_ward": np.ones(4)}, "test_subgroup_ward of .* is float64 .* one number or name"),
    ):
        with pytest.raises(DataError, match=said):
            load(tmp_path, arrays | wrong, lazy=lazy)
    with pytest.raises(DataError, match="holds test_subgroup_scanner but no test_images"):
        load(tmp_path, own() | {"test_subgroup_scanner": np.array(["A"])}, lazy=lazy)


def test_subgroups_in_bytes_are_text(tmp_path):
    names = np.array([each.encode() for each in ("Zürich", "Genève")])
    assert _texts(names, "test_subgroup_site", tmp_path) == ["Zürich", "Genève"]
    with pytest.raises(DataError, match="no UTF-8: store text"):
        _texts(np.array([b"\xff"]), "test_subgroup_site", tmp_path)


def test_bands_are_called_as_their_column_writes_numbers():
    day = Date(name="born", low=0.0, high=20000.0, bands=(10957.0,))
    assert sensitive(day, 0).names == ("1970-01-01 to 2000-01-01", "2000-01-01 to 2024-10-04")
    number = Number(name="id", low=0.0, high=3e6, bands=(1000001.0, 1000002.0))
    assert len(set(sensitive(number, 0).names)) == 3
