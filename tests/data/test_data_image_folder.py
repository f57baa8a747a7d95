from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.image_folder import ImageFolder


def picture(path: Path, grey: int, shape: tuple[int, ...] = (20, 30), last: int | None = None) -> None:
    """A grey image, with another corner where one is to be told from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(shape, grey, dtype=np.uint8)
    if last is not None:
        pixels[-8:, -8:] = last
    Image.fromarray(pixels).save(path)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """20 patients with two images each; the grey tells the patient, the folder the class."""
    for patient in range(20):
        for view in "ab":
            picture(
                tmp_path / "flat" / ("ill" if patient % 2 else "well") / f"patient{patient}_{view}.png",
                patient * 10,
                last=1 if view == "a" else 2,
            )
    return tmp_path / "flat"


def load(root: Path, **fields: object) -> Splits:
    settings = {"size": [8, 12], "mean": [0.5], "std": [0.25]} | fields
    return ImageFolder(root=str(root), **settings).load(torch.Generator().manual_seed(0))


def test_a_flat_folder(flat: Path) -> None:
    splits = load(flat, holdout_fraction=0.1, test_fraction=0.2)
    assert splits.classes == ("ill", "well")
    assert splits.shape == (1, 8, 12)
    assert len(splits.train) + len(splits.holdout) + len(splits.test) == 40
    assert 16 <= len(splits.train) < 39
    assert splits.source == f"{flat}, 40 files as 8x12 grayscale"
    patients = (splits.train.inputs[:, 0, 0, 0] * 25.5).round().long()
    assert torch.equal(patients % 2 == 1, splits.train.labels == 0)


def test_a_patient_is_never_divided(flat: Path) -> None:
    splits = load(flat, group_pattern=r"^(patient\d+)")
    parts = [
        set((records.inputs[:, 0, 0, 0] * 25.5).round().int().tolist())
        for records in (splits.train, splits.holdout, splits.test)
    ]
    assert sum(map(len, parts)) == 20
    assert splits.group_ids is not None
    assert len(splits.group_ids.unique()) == len(parts[0]) == len(splits.train) // 2


def test_train_and_test_folders(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("test", 3)):
        for name in ("a", "b"):
            for i in range(count):
                picture(tmp_path / part / name / f"{part}{i}.png", 100 + i, last=ord(name))
    splits = load(tmp_path, holdout_fraction=0.2)
    assert len(splits.train) + len(splits.holdout) == 20
    assert len(splits.test) == 6
    picture(tmp_path / "test" / "c" / "x.png", 0)
    with pytest.raises(
        DataError, match=r"holds the class folders a, b, c, but the training images have a, b"
    ):
        load(tmp_path)


def test_a_patient_in_both_train_and_test(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 5)):
        for name in ("a", "b"):
            for i in range(first, first + 6):
                picture(tmp_path / part / name / f"{name}{i}_scan.png", 100)
    with pytest.raises(DataError, match=r"2 patients have images in both .*train and .*test \(the first are"):
        load(tmp_path, group_pattern=r"(\w\d+)_")


def test_colour_and_depth(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(5):
            picture(tmp_path / name / f"{i}.jpg", 200 - i, (20, 30, 3))
    for i in range(200):
        deep = np.full((20, 30), 65535 // 4, dtype=np.uint16)
        deep[0, 0] += i  # no two alike
        Image.fromarray(deep).save(tmp_path / "a" / f"deep{i}.png")
        Image.fromarray(deep + 1).save(tmp_path / "b" / f"deep{i}.png")
    splits = load(tmp_path, mode="rgb", mean=[0.5] * 3, std=[0.25] * 3)
    assert splits.shape == (3, 8, 12)
    assert splits.train.inputs.median() == pytest.approx(0.25, abs=1e-3)
    assert splits.train.inputs.max() == pytest.approx(200 / 255, abs=0.02)
    assert load(tmp_path).train.inputs.median() == pytest.approx(0.25, abs=1e-3)


def test_other_files_and_hidden_ones_are_passed_over(flat: Path) -> None:
    (flat / "ill" / "notes.txt").write_text("none")
    (flat / "ill" / "._patient1_a.png").write_bytes(b"junk")
    assert "40 files" in load(flat).source


def test_folders_that_cannot_be_used(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root=.*/none is not a folder"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds 0 class folders \(none\)"):
        load(flat / "ill")
    with pytest.raises(DataError, match=r"patient11_a.png does not match data.group_pattern=\(case"):
        load(flat, group_pattern="(case[0-9]+)")
    (flat / "well" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken.png cannot be read as an image .*: repair or remove it"):
        load(flat)
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    Image.fromarray(noise).save(flat / "well" / "broken.png")
    (flat / "well" / "broken.png").write_bytes((flat / "well" / "broken.png").read_bytes()[:1500])
    with pytest.raises(DataError, match=r"broken.png cannot be read as an image"):
        load(flat)
    (flat / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image \(.png, .*\): add some or remove the folder"):
        load(flat)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mode": "cmyk"}, "data.mode=cmyk must be one of grayscale, rgb"),
        ({"size": [0, 8]}, r"data.size=\[0, 8\] must be height and width"),
        ({"group_pattern": "patient"}, "data.group_pattern=patient must capture one group"),
        ({"group_pattern": "(patient"}, r"data.group_pattern=\(patient is no pattern"),
    ],
)
def test_settings_that_cannot_be(flat: Path, fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(flat, **fields)
