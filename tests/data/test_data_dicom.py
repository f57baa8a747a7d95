"""DICOM in image folders: what is shown is what a viewer shows; what is told names nobody."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLossless, SecondaryCaptureImageStorage, generate_uid

from dptrain.contracts import DataError
from dptrain.data.dicom import _silence
from dptrain.data.image_folder import ImageFolder
from dptrain.data.pixels import Pixels

NAME = "Featherstone^Ermintrude"
HOUNSFIELD = np.linspace(-1000, 1000, 64).reshape(8, 8).round()  # stored with an intercept of -1024


@pytest.fixture(autouse=True)
def as_scanners_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may hold what the standard does not allow."""
    for kind in ("reading", "writing"):
        monkeypatch.setattr(pydicom.config.settings, f"{kind}_validation_mode", pydicom.config.IGNORE)
    _silence.cache_clear()  # pytest takes back what it changes, after each test


def scan(path: Path, values: np.ndarray | None = None, **tags: Any) -> Path:
    """A DICOM file of somebody: 12 bits in 16, a slope and an intercept, and tags."""
    held = Dataset()
    held.file_meta = FileMetaDataset()
    held.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    held.file_meta.MediaStorageSOPClassUID = held.SOPClassUID = SecondaryCaptureImageStorage
    held.file_meta.MediaStorageSOPInstanceUID = held.SOPInstanceUID = generate_uid()
    stored = (HOUNSFIELD if values is None else values) + 1024
    held.PatientName, held.PatientID, held.PatientBirthDate = NAME, f"{NAME}-1", "not a day"
    held.Rows, held.Columns = stored.shape[-2:]
    held.SamplesPerPixel, held.PhotometricInterpretation = 1, "MONOCHROME2"
    held.BitsAllocated, held.BitsStored, held.HighBit, held.PixelRepresentation = 16, 12, 11, 0
    held.RescaleSlope, held.RescaleIntercept = 1, -1024
    held.PixelData = stored.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(held, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    held.save_as(path, enforce_file_format=True)
    return path


def read(path: Path, **fields: Any) -> np.ndarray:
    return Pixels(size=(8, 8), **fields).read(path, str(path))[..., 0]


@pytest.mark.parametrize("inverted", [False, True])
def test_a_declared_range_and_the_file_s_own_window(tmp_path: Path, inverted: bool) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    path = scan(tmp_path / "a.dcm", WindowCenter=[40, 300], WindowWidth=[400, 2000], **tags)
    ways = {
        "declared": (read(path, range=[-500, 500]), (HOUNSFIELD + 500) / 1000),
        # PS3.3 C.11.2.1.2.1
        "window": (read(path), (HOUNSFIELD - 39.5) / 399 + 0.5),
    }
    tags |= {"WindowCenter": 40, "WindowWidth": 400}
    for function, wanted in (
        ("LINEAR_EXACT", (HOUNSFIELD - 40) / 400 + 0.5),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (HOUNSFIELD - 40) / 400))),
    ):
        ways[function] = read(scan(tmp_path / "b.dcm", VOILUTFunction=function, **tags)), wanted
    for way, (found, wanted) in ways.items():
        shown = np.clip(wanted, 0, 1)
        assert np.allclose(found, 1 - shown if inverted else shown, atol=1e-6), way


@pytest.mark.parametrize(("entries", "first", "bits"), [(256, 0, 10), (200, 7, 8), (1000, 0, 8)])
def test_a_lookup_table(tmp_path: Path, entries: int, first: int, bits: int) -> None:
    white = 2**bits - 1
    rising = np.linspace(0, white, entries).round()
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [entries, first, bits])
    table.add_new("LUTData", "US", rising.astype(int).tolist())
    values = np.arange(64).reshape(8, 8) * 40  # beyond both ends, too
    path = scan(
        tmp_path / "a.dcm",
        values - 1024,
        RescaleIntercept=0,
        VOILUTSequence=[table],
        WindowWidth=2,
        WindowCenter=1,
    )
    assert np.allclose(read(path), rising[np.clip(values - first, 0, entries - 1)] / white, atol=1e-6)


@pytest.mark.parametrize("name", ["WindowCenter", "WindowWidth", "VOILUTSequence", "VOILUTFunction"])
def test_a_tag_without_a_value_says_nothing(tmp_path: Path, name: str) -> None:
    empty = {name: [] if name == "VOILUTSequence" else None}
    scaled = {"RescaleSlope": None, "RescaleIntercept": None}
    path = scan(tmp_path / "a.dcm", **empty, **scaled)
    assert np.allclose(read(path, range=[0, 4095]), (HOUNSFIELD + 1024) / 4095, atol=1e-6)
    with pytest.raises(DataError, match="has no window of its own"):
        read(path)
    if name.startswith("VOI"):
        window = {"WindowCenter": 40, "WindowWidth": 400}
        with_one = read(scan(tmp_path / "b.dcm", **window))
        assert np.array_equal(read(scan(tmp_path / "b.dcm", **window, **empty)), with_one)


def test_an_open_file_is_dicom_wherever_it_was_left(tmp_path: Path) -> None:
    held = io.BytesIO(scan(tmp_path / "a.dcm", WindowCenter=40, WindowWidth=400).read_bytes())
    Pixels(size=(8, 8)).refuse_dark([held, held], "a")
    held.seek(0, io.SEEK_END)
    assert np.array_equal(Pixels(size=(8, 8)).read(held, "a")[..., 0], read(tmp_path / "a.dcm"))


def test_colours_are_as_they_are(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    tags = {
        "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": colours.tobytes(),
    }  # fmt: skip
    path = scan(tmp_path / "a.dcm", **tags)
    assert np.allclose(Pixels(size=(8, 8), mode="rgb").read(path, "a"), colours / 255, atol=1e-6)


def test_in_a_folder_beside_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        values = HOUNSFIELD + i
        name = f"1.2.840.{i}" if i < 5 else f"IM{i}" if i < 10 else f"{i}.DCM"  # as scanners name them
        scan(tmp_path / "imgs" / "ab"[i % 2] / name, values, WindowCenter=0, WindowWidth=2000)
        Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(tmp_path / "imgs" / "ab"[i % 2] / f"{i}.png")
    scan(tmp_path / "imgs" / "a" / "DICOMDIR")
    (tmp_path / "imgs" / "a" / "notes.txt").write_text("none" * 50)
    folder = ImageFolder(
        root=str(tmp_path / "imgs"), size=[8, 8], mean=[0.5], std=[0.25], lazy=True, workers=3
    )
    splits = folder.load(torch.Generator().manual_seed(0))
    assert sum(map(len, (splits.train, splits.holdout, splits.test))) == 60
    brightest = splits.train.inputs.flatten(1).max(1)[0]
    assert int((brightest > 0.9).sum()) == sum(1 for each in brightest if each > 0.2) > 10
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r'is DICOM: pip install "dptrain\[dicom\]" to read it'):
        folder.load(torch.Generator().manual_seed(0))


def broken(path: Path) -> Path:
    whole = scan(path, WindowWidth=400, WindowCenter=40).read_bytes()
    path.write_bytes(whole[:-40])
    return path


def nonsense(path: Path) -> Path:
    whole = scan(path, RescaleSlope="1.5", PatientName="nobody").read_bytes()
    path.write_bytes(whole.replace(b"1.5 ", NAME[:4].encode()))
    return path


def compressed(path: Path) -> Path:
    held = pydicom.dcmread(scan(path))
    held.file_meta.TransferSyntaxUID = JPEGLossless
    held.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    held["PixelData"].VR = "OB"
    held.save_as(path)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (scan, r"has no window of its own: declare .* data.range=\[-1000,1000\]"),
        (lambda path: scan(path, NumberOfFrames=2, Rows=4), "holds several images in one file: save each"),
        (broken, r"cannot be read as DICOM \(ValueError\): repair or remove it; if it is compressed"),
        (compressed, r"cannot be read as DICOM \(RuntimeError\).* pip install pylibjpeg"),
        (lambda path: scan(path, Rows=60000, Columns=60000), "too many pixels to be an image"),
        (
            lambda path: scan(path, PhotometricInterpretation="PALETTE COLOR"),
            "neither grey levels nor colours",
        ),
        (nonsense, r"cannot be read as DICOM \(\w+Error\)"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_that_names_nobody(
    tmp_path: Path, make: Any, says: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "a.dcm")
    caplog.clear()
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError, match=says) as caught:
        read(path)
    told = f"{caught.value} {caplog.text} {''.join(capfd.readouterr())}"
    assert "Feather" not in told
    assert NAME[:4] not in told
    assert caught.value.__cause__ is None
