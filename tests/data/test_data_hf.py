"""Data sets of Hugging Face: each way to keep one reads alike, and what is missing is said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data import hf
from dptrain.data.hf import HuggingFace

COUNTS = {"train": 40, "validation": 10, "test": 12}


def rows(part: str, **changes: Any) -> datasets.Dataset:
    """Grey images; the grey tells the part and the record, and of two records each one is whose."""
    count, brighter = COUNTS[part], 60 * list(COUNTS).index(part)
    columns = {
        "image": [Image.fromarray(np.full((9, 7), brighter + i, np.uint8)) for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "who": [f"{part}{i // 2}" for i in range(count)],
    }
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["well", "ill"]),
        "who": datasets.Value("string"),
    }
    for name, values in changes.items():
        columns[name] = values
        features[name] = datasets.Dataset.from_dict({name: values}).features[name]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def kept(folder: Path, way: str) -> Path:
    if way == "disk":
        datasets.DatasetDict({part: rows(part) for part in COUNTS}).save_to_disk(folder)
    elif way == "parquet":
        folder.mkdir()
        for part in COUNTS:
            rows(part).to_parquet(folder / f"{part}-00000-of-00001.parquet")
    else:
        for part in COUNTS:
            for i, row in enumerate(rows(part)):
                path = folder / part / ("well", "ill")[row["label"]] / f"{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                row["image"].save(path)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def source(path: Path | str, **fields: Any) -> HuggingFace:
    settings = {"size": [8, 8], "mean": [0.5], "std": [0.25], "cache": f"{path}_cache"} | fields
    return HuggingFace(path=str(path), **settings)


def load(path: Path | str, **fields: Any) -> Splits:
    return source(path, **fields).load(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", ["disk", "parquet", "images"])
@pytest.mark.parametrize("lazy", [False, True])
def test_each_way_to_keep_them_reads_alike(tmp_path: Path, way: str, lazy: bool) -> None:
    splits = load(kept(tmp_path / "xrays", way), lazy=lazy, group=None if way == "images" else "who")
    assert (splits.name, set(splits.classes)) == ("xrays", {"well", "ill"})
    assert ", images as 8x8 grayscale" in splits.source
    for part, records in (("train", splits.train), ("validation", splits.holdout), ("test", splits.test)):
        greys = (records.inputs[:, 0, 0, 0] * 255).round().int() - 60 * list(COUNTS).index(part)
        assert sorted(greys.tolist()) == list(range(COUNTS[part]))
        assert [splits.classes[label] for label in records.labels] == [("well", "ill")[i % 2] for i in greys]
    if way != "images":
        assert splits.group_ids is not None
        assert len(splits.group_ids.unique()) == 20
        assert splits.holdout_group_ids is not None
        assert len(splits.holdout_group_ids.unique()) == 5
        assert splits.test_group_ids is not None
        assert len(splits.test_group_ids.unique()) == (len(splits.test) + 1) // 2


def test_parts_that_are_missing_are_cut_and_nobody_is_divided(tmp_path: Path) -> None:
    words = ["ill" if i % 2 else "well" for i in range(40)]
    rows("train", label=words).save_to_disk(tmp_path / "one")
    splits = load(tmp_path / "one", group="who", classes=["well", "ill"])
    assert splits.classes == ("well", "ill")
    greys = [
        (part.inputs[:, 0, 0, 0] * 255).round().int() for part in (splits.train, splits.holdout, splits.test)
    ]
    assert torch.equal(greys[0] % 2, splits.train.labels.int())
    persons = [set((each // 2).tolist()) for each in greys]
    assert sum(map(len, persons)) == len(set().union(*persons)) == 20


@pytest.mark.parametrize(
    ("changes", "fields", "says"),
    [
        ({"label": ["ill", "well"] * 20}, {}, r"data.classes=null, but data.label=label of .* has no names"),
        (
            {"label": ["ill", "SECRET"] * 20},
            {"classes": ["well", "ill"]},
            "the label of record 1 of data.label=label in train lies outside",
        ),
        ({}, {"classes": ["a", "b"]}, r"has names of its own, well, ill: set data.classes=null"),
        ({}, {"image": "scan"}, "has no column scan in train, but image, label, who: name them in"),
        ({"image": list(range(40))}, {}, "data.image=image is no column of images; of a table"),
        ({"who": [None, *"ab" * 19, "c"]}, {"group": "who"}, "data.group=who of record 0 in train is empty"),
        ({"who": ["a", " ", *"ab" * 19]}, {"group": "who"}, "data.group=who of record 1 in train is empty"),
        ({}, {"workers": 0}, "data.workers=0 must be at least 1"),
        ({}, {"mode": "cmyk"}, "data.mode=cmyk must be one of"),
        ({}, {"classes": ["a", "a"]}, "must name at least two classes, each once"),
    ],
)  # fmt: skip
def test_what_is_not_as_declared(
    tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any], says: str
) -> None:
    rows("train", **changes).save_to_disk(tmp_path / "one")
    with pytest.raises((ConfigError, DataError), match=says) as caught:
        load(tmp_path / "one", **fields)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("named", [(True, True), (False, True), (True, False)])
def test_a_label_means_what_its_own_part_calls_it(tmp_path: Path, named: tuple[bool, bool]) -> None:
    parts = {}
    for part, own, names in (("train", named[0], ["well", "ill"]), ("test", named[1], ["ill", "well"])):
        words = [("well", "ill")[i % 2] for i in range(COUNTS[part])]
        label = datasets.ClassLabel(names=names) if own else datasets.Value("string")
        parts[part] = rows(part, label=words).cast_column("label", label)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "a")
    splits = load(tmp_path / "a", classes=["well", "ill"])
    greys = (splits.test.inputs[:, 0, 0, 0] * 255).round().int()
    assert torch.equal(splits.test.labels, (greys % 2).long())


def test_a_name_that_another_part_alone_has_is_refused(tmp_path: Path) -> None:
    other = rows("test").cast_column("label", datasets.ClassLabel(names=["well", "SECRET"]))
    datasets.DatasetDict({"train": rows("train"), "test": other}).save_to_disk(tmp_path / "a")
    with pytest.raises(DataError, match=r"the label of record 1 of data.label=label in test lies outside"):
        load(tmp_path / "a")


def test_parts_and_groups_that_do_not_fit(tmp_path: Path) -> None:
    datasets.DatasetDict({"validation": rows("validation"), "all": rows("train")}).save_to_disk(
        tmp_path / "a"
    )
    with pytest.raises(DataError, match="has the parts validation, all but none called train; rename one"):
        load(tmp_path / "a")
    twice = {"train": rows("train"), "val": rows("validation"), "dev": rows("test")}
    datasets.DatasetDict(twice).save_to_disk(tmp_path / "twice")
    with pytest.raises(DataError, match="has the parts train, val, dev, two of which are names of one; keep"):
        load(tmp_path / "twice")
    for part in ("train", "test"):
        held = {"train": rows("train"), "test": rows("test")}
        held[part] = held[part].select([])
        with pytest.raises(DataError, match=f"has no records in {part}: give it some, or remove it"):
            source("a")._parts(held, datasets)
    extra = {"train": rows("train"), "all": rows("test")}
    datasets.DatasetDict(extra).save_to_disk(tmp_path / "c")
    assert load(tmp_path / "c").source.endswith("c, images as 8x8 grayscale; not used: all")
    shared = rows("test", who=["train3"] * 12)
    datasets.DatasetDict({"train": rows("train"), "test": shared}).save_to_disk(tmp_path / "b")
    with pytest.raises(DataError, match="1 patients have images in both train and test"):
        load(tmp_path / "b", group="who")


def test_a_hub_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    says = r"is no folder here, and no hub that answers has a data set so \(\w+\): give a folder that save_to"
    with pytest.raises(DataError, match=says) as caught:
        load("somebody/xrays", cache=str(tmp_path))
    assert caught.value.__cause__ is None
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf, "_ask_hub", None)  # which is not asked about a folder
    for name in ("./nowhere", "~/nowhere", str(tmp_path / "nowhere"), "empty/xrays", "a/b/c"):
        with pytest.raises(DataError, match="is no folder here: correct it; the hub is asked only for NAME"):
            load(name, cache=str(tmp_path))
    with pytest.raises(
        DataError, match=r"empty cannot be read \(\w+\): give a folder that save_to_disk made"
    ):
        load(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r'needs the library datasets: pip install "dptrain\[hf\]"'):
        load("somebody/xrays")


def test_what_the_library_cannot_read_is_quoted_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.csv").write_text("image,label\nSECRET,2\nSECRET,1,4,5\n")
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(tmp_path / "a")
    assert "SECRET" not in str(caught.value)
    assert caplog.text + "".join(capfd.readouterr()) == ""
    assert caught.value.__cause__ is None
