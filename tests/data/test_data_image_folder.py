from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.image_folder import ImageFolder
from dptrain.data.pixels import Pixels


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
    assert splits.source == f"{flat}, files as 8x12 grayscale"
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


DEBRIS = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash", "lost+found")


@pytest.mark.parametrize("name", DEBRIS)
def test_debris_is_left_out_at_every_level(flat: Path, name: str) -> None:
    for folder in (flat, flat / "ill", flat / "well" / "more"):
        picture(folder / name / "patient1_a.png", 7)
    (flat / "well" / "Thumbs.db").write_bytes(b"junk")
    (flat / "ill" / "notes.txt").write_text("none")
    (flat / "ill" / "._patient1_a.png").write_bytes(b"junk")
    (flat / "ill" / "folder.png").mkdir()
    (flat / "ill" / "again").symlink_to(flat)
    splits = load(flat)
    assert sum(map(len, (splits.train, splits.holdout, splits.test))) == 40
    assert splits.classes == ("ill", "well")


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (("Training", "Validation", "Testing"), (8, 6, 4)),
        (("train", "dev", "TEST"), (8, 6, 4)),
        (("TRAIN", "valid", "test"), (8, 6, 4)),
    ],
)
def test_parts_by_their_usual_names(tmp_path: Path, names: tuple[str, ...], counts: tuple[int, ...]) -> None:
    for at, (part, count) in enumerate(zip(names, counts, strict=True)):
        for i in range(count):
            picture(tmp_path / part / "ab"[i % 2] / f"{i}.png", 10 + i, last=50 * at)
    splits = load(tmp_path)
    assert tuple(map(len, (splits.train, splits.holdout, splits.test))) == counts


def test_parts_that_cannot_be_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "test" / name / "x.png", 1)
    with pytest.raises(DataError, match=r"holds test but no folder `train`; name that of training images so"):
        load(tmp_path)
    for part in ("train", "Training"):
        picture(tmp_path / part / "a" / "x.png", 1)
    with pytest.raises(DataError, match=r"holds both Training and train, which are names of one part"):
        load(tmp_path)


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    for name in ("valid", "void"):
        for i in range(20):
            picture(tmp_path / name / f"{i}.png", i, last=ord(name[-1]))
    assert load(tmp_path).classes == ("valid", "void")


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """Twenty patients with a folder each, and the same images in a table."""
    rows = ["file,group"]
    for patient in range(20):
        for view in range(2):
            path = Path("ill" if patient % 2 else "well") / f"p{patient}" / f"{view}.png"
            picture(tmp_path / "nested" / path, patient * 10, last=view)
            rows.append(f"{path.as_posix()},{patient}")
    (tmp_path / "nested" / "whose.csv").write_text("\n".join(rows))
    return tmp_path / "nested"


@pytest.mark.parametrize(
    "fields", [{"group_folder": True}, {"group_file": "whose.csv", "group_folder": False}]
)
def test_groups_by_folder_or_by_table(nested: Path, fields: dict[str, object]) -> None:
    if "group_file" in fields:
        picture(nested / "ill" / "single.png", 3)
        picture(nested / "well" / "alone.png", 4)
        with (nested / "whose.csv").open("a") as table:
            table.write("\nsingle.png,1\nwell/alone.png,0\n")
    splits = load(nested, holdout_fraction=0.3, test_fraction=0.3, **fields)
    parts = [
        set((records.inputs[:, 0, 0, 0] * 25.5).round().int().tolist()) - {0}
        for records in (splits.train, splits.holdout, splits.test)
    ]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 19, "no patient in two parts"
    assert splits.group_ids is not None
    assert len(splits.group_ids.unique()) < len(splits.train)
    assert splits.test_group_ids is not None
    patients = (splits.test.inputs[:, 0, 0, 0] * 25.5).round().int()
    same = patients[:, None] == patients
    assert torch.equal(splits.test_group_ids[:, None] == splits.test_group_ids, same)


def test_subgroups_are_columns_of_the_table(nested: Path) -> None:
    table = nested / "whose.csv"
    head, *lines = table.read_text().splitlines()
    told = (f"{line},{'A' if int(line.rpartition(',')[2]) % 3 else ''}" for line in lines)
    table.write_text("\n".join([f"{head},scanner", *told]))
    settings: dict[str, object] = {"holdout_fraction": 0.3, "test_fraction": 0.3, "group_file": "whose.csv"}
    splits = load(nested, subgroups=["scanner"], **settings)
    patients = (splits.test.inputs[:, 0, 0, 0] * 25.5).round().int().tolist()
    assert splits.subgroups == {"scanner": tuple("A" if each % 3 else "(missing)" for each in patients)}
    assert load(nested, **settings).subgroups == {}
    with pytest.raises(DataError, match="must have the columns file and ward"):
        load(nested, subgroups=["ward"], **settings)
    with pytest.raises(ConfigError, match="which is null; name a CSV there with"):
        load(nested, subgroups=["scanner"])


def test_class_folders_of_folders_only_are_refused(nested: Path) -> None:
    with pytest.raises(DataError, match=r"ill holds only folders \(10, such as p1\).*data.group_folder=true"):
        load(nested)
    picture(nested / "ill" / "loose.png", 3)
    with pytest.raises(DataError, match=r"loose.png lies in its class folder itself.*; move it into one"):
        load(nested, group_folder=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read below .* give a CSV in UTF-8"),
        ("name,patient\na,b\n", "must have the columns file and group"),
        ("file,group\n", "must have the columns file and group"),
        ("file,group\nill/p1/0.png,1\nill/p1/0.png,2\n", "names a file twice"),
        ("file,group\nill/p1/0.png,1\n", r"does not say whose 39 of the images are \(the first is number 2"),
        ("file,group\n0.png,1\n1.png,2\n", "gives bare names that several folders hold"),
    ],
)
def test_tables_that_do_not_tell_whose_images_they_are(nested: Path, text: str | None, says: str) -> None:
    if text is not None:
        (nested / "whose.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        load(nested, group_file="whose.csv" if text is not None else "none.csv")


def test_a_declared_range_of_deep_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(30):
            deep = np.full((20, 30), 1024 + i + 40 * (name == "b"), dtype=np.uint16)
            Image.fromarray(deep).save(tmp_path / name / f"{i}.png")
            Image.fromarray((deep / 4096).astype(np.float32)).save(tmp_path / name / f"{i}.tif")
    with pytest.raises(DataError, match=r"whose range is unknown: declare it by data.range=\[0,1\]"):
        load(tmp_path)
    for path in tmp_path.rglob("*.tif"):
        path.unlink()
    with pytest.raises(DataError, match=r"all but black, .* such as data.range=\[0,4095\] for 12,"):
        load(tmp_path)
    assert load(tmp_path, range=[0, 65535]).train.inputs.max() < 0.02
    assert load(tmp_path, range=[0, 4096]).train.inputs.median() == pytest.approx(0.26, abs=0.01)
    with pytest.raises(ConfigError, match=r"data.range=\[5, 5\] must be the darkest and the brightest value"):
        load(tmp_path, range=[5, 5])
    Image.fromarray(np.full((20, 30), np.nan, dtype=np.float32)).save(tmp_path / "a" / "none.tif")
    with pytest.raises(DataError, match=r"none.tif holds pixels that are no numbers"):
        load(tmp_path, range=[0, 4096])


def test_whatever_a_decoder_raises_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("SECRET", "0" * 3_000_000, zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "a.png", pnginfo=notes)
    pixels = Pixels(size=(8, 8))
    with pytest.raises(DataError, match=r"a cannot be read as an image \(\w+\): repair or remove it"):
        pixels.read(tmp_path / "a.png", "a")

    def beyond(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", beyond)
    with pytest.raises(MemoryError):
        pixels.read(tmp_path / "a.png", "a")


def test_files_that_hold_more_than_one_image_or_far_too_much(
    flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = [Image.fromarray(np.full((20, 30), grey, dtype=np.uint8)) for grey in (1, 2, 3)]
    stack[0].save(flat / "ill" / "stack.tif", save_all=True, append_images=stack[1:])
    with pytest.raises(
        DataError, match=r"stack.tif holds 3 images in one file: save each in a file of its own"
    ):
        load(flat)
    (flat / "ill" / "stack.tif").unlink()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(DataError, match=r"has too many pixels to be an image .*: repair or remove it"):
        load(flat)


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
        ({"group_pattern": "(p)", "group_folder": True}, "three ways to say whose an image is; choose one"),
        ({"group_pattern": "patient"}, "data.group_pattern=patient must capture one group"),
        ({"group_pattern": "(patient"}, r"data.group_pattern=\(patient is no pattern"),
    ],
)
def test_settings_that_cannot_be(flat: Path, fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(flat, **fields)
