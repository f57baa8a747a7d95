from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dptrain.contracts import ConfigError, DataError
from dptrain.data.medmnist import SETS, MedMNIST
from dptrain.tasks import Ordinal


def source(name: str = "pneumoniamnist", **fields: object) -> MedMNIST:
    return MedMNIST(name=name, mean=[0.5], std=[0.25], **fields)


def save(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


@pytest.mark.usefixtures("nowhere")
def test_official_parts_are_kept(tmp_path: Path, rng, official) -> None:
    path = save(tmp_path, "pneumoniamnist", official)
    splits = source(root=str(tmp_path)).load(rng)
    assert (len(splits.train), len(splits.holdout), len(splits.test)) == (12, 4, 6)
    assert splits.classes == ("normal", "pneumonia")
    assert splits.shape == (1, 28, 28)
    assert torch.equal(splits.holdout.inputs[:, 0] * 255, torch.from_numpy(official["val_images"]).float())
    assert splits.source.startswith(f"{path} (md5 ")
    assert "differs from MedMNIST's 28209eda62fecd6e6a2d98b1501bb15f" in splits.source


@pytest.mark.usefixtures("nowhere")
def test_chest_findings_are_folded_into_any(tmp_path: Path, rng, official) -> None:
    for part in ("train", "val", "test"):
        findings = np.zeros((len(official[f"{part}_images"]), 14), dtype=np.uint8)
        findings[::3, 2] = findings[::3, 9] = 1
        official[f"{part}_labels"] = findings
    save(tmp_path, "chestmnist", official)
    several = source("chestmnist", root=str(tmp_path)).load(rng)
    assert several.train.labels.sum(0).tolist() == [4.0 if at in (2, 9) else 0.0 for at in range(14)]
    assert several.task is not None
    assert several.task.outputs == (14,)
    assert (several.classes[2], several.classes[13]) == ("effusion", "hernia")
    splits = source("chestmnist", root=str(tmp_path), task="classification").load(rng)
    assert splits.task is None
    assert splits.train.labels.tolist() == [1, 0, 0] * 4
    assert splits.classes == ("no finding", "any finding")
    assert splits.source.endswith("any of 14 findings against none")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            np.zeros((12, 1), np.uint8),
            r"train_labels of .*chestmnist.npz has shape \(12, 1\): store 14 findings",
        ),
        (np.full((12, 14), 3, np.uint8), "holds other values than 0 and 1"),
    ],
)
def test_chest_findings_that_are_none(tmp_path: Path, rng, official, labels: np.ndarray, says: str) -> None:
    save(tmp_path, "chestmnist", official | {"train_labels": labels})
    with pytest.raises(DataError, match=says):
        source("chestmnist", root=str(tmp_path), task="classification").load(rng)


def test_retinal_grades_are_in_an_order(tmp_path: Path, rng, official) -> None:
    for part in ("train", "val", "test"):
        official[f"{part}_labels"] = np.arange(len(official[f"{part}_images"]))[:, None].astype(np.uint8) % 5
    save(tmp_path, "retinamnist", official)
    splits = source("retinamnist", root=str(tmp_path)).load(rng)
    assert splits.task == Ordinal(classes=5, names=splits.classes)
    assert splits.num_classes == 5
    assert source("retinamnist", root=str(tmp_path), task="classification").load(rng).task is None
    with pytest.raises(ConfigError, match=r"data\.task=multi_label is not what labels of retinamnist are"):
        source("retinamnist", task="multi_label")


def test_download_then_cache(web, nowhere: Path, tmp_path: Path, rng, official) -> None:
    body = save(tmp_path, "mirror", official).read_bytes()
    web.pages["pneumoniamnist.npz"] = body
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    data = source(cache=str(nowhere), url=web.url("pneumoniamnist.npz"), md5=md5)
    assert len(data.load(rng).train) == 12
    assert len(data.load(rng).train) == 12
    assert web.asked == ["pneumoniamnist.npz"]


def test_a_download_must_be_the_published_file(web, nowhere: Path, tmp_path: Path, rng, official) -> None:
    web.pages["pneumoniamnist.npz"] = save(tmp_path, "mirror", official).read_bytes()
    with pytest.raises(DataError, match="28209eda62fecd6e6a2d98b1501bb15f, so it was thrown away"):
        source(cache=str(nowhere), url=web.url("pneumoniamnist.npz")).load(rng)
    assert list(nowhere.iterdir()) == []


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"data.name=lungmnist must be one of pathmnist, chestmnist, .*organsmnist"
    ):
        source("lungmnist")


def test_twelve_sets_with_their_own_checksums() -> None:
    assert len(SETS) == 12
    assert len({published.md5 for published in SETS.values()}) == 12
    assert all(len(published.md5) == 32 for published in SETS.values())


@pytest.mark.skipif(
    not (Path(os.environ.get("DPTRAIN_DATA", "/none")) / "pneumoniamnist.npz").is_file(),
    reason="no pneumoniamnist.npz in the folder DPTRAIN_DATA",
)
def test_the_real_pneumoniamnist(rng) -> None:
    splits = source().load(rng)
    assert splits.train.labels.bincount().tolist() == [1214, 3494]
    assert splits.holdout.labels.bincount().tolist() == [135, 389]
    assert splits.test.labels.bincount().tolist() == [234, 390]
    assert 0.3 < splits.train.inputs.mean() < 0.7
