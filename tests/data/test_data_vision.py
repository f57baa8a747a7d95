from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from dptrain.contracts import ConfigError, DataError
from dptrain.data.vision import TorchvisionSet, read_idx


def source(name: str = "mnist", channels: int = 1, **fields: object) -> TorchvisionSet:
    return TorchvisionSet(
        name=name, mean=[0.5] * channels, std=[0.25] * channels, **{"holdout": 5, "records": 20} | fields
    )


def idx(array: np.ndarray) -> bytes:
    """An array in the file format of MNIST."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def files() -> dict[str, bytes]:
    made = {}
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.full((count, 28, 28), 51, dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)  # no two alike
        made[f"{part}-images-idx3-ubyte"] = idx(images)
        made[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return made


@pytest.fixture
def mirror(web, files, monkeypatch: pytest.MonkeyPatch):
    """A mirror of MNIST on this machine, for torchvision's own downloader."""
    packed = {f"{name}.gz": gzip.compress(body) for name, body in files.items()}
    web.pages.update(packed)
    checksums = [
        (name, hashlib.md5(body, usedforsecurity=False).hexdigest()) for name, body in packed.items()
    ]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{web.address}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", checksums)
    return web


@pytest.mark.usefixtures("nowhere")
def test_an_npz_comes_first(tmp_path: Path, rng) -> None:
    images = np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    labels = np.arange(30) % 10
    np.savez(
        tmp_path / "mnist.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:10],
        test_labels=labels[:10],
    )
    splits = source(root=str(tmp_path)).load(rng)
    assert 1 <= len(splits.holdout) <= 15
    assert len(splits.test) == 10
    drawn = torch.cat([splits.train.inputs, splits.holdout.inputs])[:, 0, 0, 0] * 255
    assert sorted(drawn.round().int().tolist()) == list(range(30))
    assert splits.source == str(tmp_path / "mnist.npz")


@pytest.mark.usefixtures("nowhere")
def test_torchvisions_own_files(tmp_path: Path, rng, files) -> None:
    for name, body in files.items():
        path = tmp_path / "MNIST" / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    splits = source(root=str(tmp_path)).load(rng)
    assert len(splits.train) + len(splits.holdout) == 20
    assert len(splits.test) == 10
    assert splits.train.inputs[:, :, 1:].unique().tolist() == pytest.approx([0.2])
    assert splits.source == f"{tmp_path / 'MNIST'}, torchvision's files"


def test_download_then_cache(mirror, nowhere: Path, rng) -> None:
    for _ in range(2):
        assert len(source(cache=str(nowhere)).load(rng).test) == 10
    assert sorted(set(mirror.asked)) == sorted(mirror.pages)
    assert [entry.name for entry in nowhere.iterdir()] == ["MNIST"]


@pytest.mark.parametrize("fault", ["cut", "wrong", "offline"])
def test_a_broken_download_leaves_nothing(
    mirror, nowhere: Path, rng, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    page = "t10k-labels-idx1-ubyte.gz"
    if fault == "cut":
        mirror.cut.add(page)
    elif fault == "wrong":
        mirror.pages[page] += b"!"
    else:
        monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError) as caught:
        source(cache=str(nowhere)).load(rng)
    for words in (
        "mnist.npz (or torchvision's folder MNIST)",
        "DPTRAIN_DATA (not set)",
        str(nowhere),
        "data=phantom",
    ):
        assert words in str(caught.value)
    assert list(nowhere.iterdir()) == []


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_files(tmp_path: Path, rng, files, name: str) -> None:
    for file, body in files.items():
        path = tmp_path / "MNIST" / "raw" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body[: len(body) // 2] if file == name else body)
    with pytest.raises(
        DataError, match=r"torchvision cannot read .*MNIST .*: remove it, to download it again"
    ):
        source(root=str(tmp_path)).load(rng)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"data.name=svhn must be one of mnist, fashion_mnist, cifar10"):
        source("svhn")
    with pytest.raises(ConfigError, match=r"data.holdout=0 must be a number of records"):
        source(holdout=0)
    with pytest.raises(ConfigError, match=r"data.holdout=60000 must be .* below the 60000"):
        source(holdout=60_000, records=None)


@pytest.mark.skipif(
    not (Path(os.environ.get("DPTRAIN_DATA", "/none")) / "mnist.npz").is_file(),
    reason="no mnist.npz in the folder DPTRAIN_DATA",
)
def test_the_real_mnist(rng) -> None:
    splits = source(holdout=5000, records=None).load(rng)
    assert len(splits.train) + len(splits.holdout) == 60_000
    assert len(splits.test) == 10_000
    assert abs(len(splits.holdout) - 5000) < 4 * (60_000 * 11 / 144) ** 0.5
    assert splits.train.labels.bincount(minlength=10).min() > 4500
    assert splits.train.inputs.mean() == pytest.approx(0.13, abs=0.01)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("packed", [True, False])
def test_plain_idx_files_of_a_distribution(tmp_path: Path, rng, files, packed: bool) -> None:
    for name, body in files.items():
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(body) if packed else body)
    splits = source("fashion_mnist", root=str(tmp_path)).load(rng)
    assert len(splits.train) + len(splits.holdout) == 20
    assert len(splits.test) == 10
    assert splits.train.inputs[:, :, 1:].unique().tolist() == pytest.approx([0.2])
    assert splits.classes[0] == "T-shirt or top"
    assert splits.source == f"{tmp_path}, idx files"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\0\0\x08\x01\0\0\0\x05\1\2", "is cut short: it holds 2 of 5 bytes"),
        (b"\0\0\x08\x03\0\0", "is cut short in its first 16 bytes"),
        (b"\0\0\x0d\x01\0\0\0\0", "is not an idx file of bytes"),
        (b"", "is not an idx file of bytes"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, body: bytes, said: str) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(body)
    with pytest.raises(DataError, match=said):
        read_idx(path)
    packed = tmp_path / "t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(gzip.compress(b"\0" * 100)[:-9])
    with pytest.raises(DataError, match=r"cannot be read .* copy the file again"):
        read_idx(packed)
