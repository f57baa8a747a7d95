"""Public benchmarks that torchvision knows how to download, and files in the format of MNIST (idx)."""

from __future__ import annotations

import gzip
import math
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from dptrain.contracts import ConfigError, DataError, Splits
from dptrain.data.checks import to_records
from dptrain.data.files import cache_folder, local_folders, missing, read_npz
from dptrain.data.splits import assemble, assignment_key, divide

TORCHVISION = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
CLASSES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion_mnist": (
        "T-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
        "ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
RECORDS = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}  # in the training part, as published
FOLDER = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py"}
KEYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet:
    """MNIST, FashionMNIST or CIFAR10; about `holdout` records are cut from the training part.

    Each by a keyed hash of itself, with a chance of `holdout` in the declared number of training
    `records` (null: as many as were published).

    `<name>.npz` (train_images, train_labels, test_images, test_labels), torchvision's own files or,
    in `root` alone, for nothing in them tells what they are of, plain idx files (also `.gz`), are
    looked for in `root`, in the folder DPTRAIN_DATA and in `cache`; if there are none, they are
    downloaded into `cache`. Raises DataError if they cannot be had.
    Sources: LeCun et al. 1998; Xiao et al. 2017, arXiv 1708.07747; Krizhevsky 2009.
    """

    name: str
    mean: Sequence[float]
    std: Sequence[float]
    holdout: int = 5000
    records: int | None = None
    split_key: str | None = None
    root: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.name not in TORCHVISION:
            raise ConfigError(f"data.name={self.name} must be one of {', '.join(TORCHVISION)}")
        if not 1 <= self.holdout < self.declared:
            raise ConfigError(
                f"data.holdout={self.holdout} must be a number of records, at least 1 and below the "
                f"{self.declared} for training that data.records declares; try {self.declared // 10}"
            )

    @property
    def declared(self) -> int:
        """The number of training records that is public."""
        return RECORDS[self.name] if self.records is None else self.records

    def load(self, rng: torch.Generator) -> Splits:
        plain = None if self.root is None else find_idx(Path(self.root).expanduser())
        if plain is None:
            source, arrays = self._read(self._folder())
        else:
            source, arrays = f"{self.root}, idx files", {key: read_idx(path) for key, path in plain.items()}
        classes = CLASSES[self.name]
        pool, test = (
            to_records(arrays, part, where=source, num_classes=len(classes)) for part in ("train", "test")
        )
        key = assignment_key(rng, self.split_key)
        train, holdout, _ = divide(pool, None, key, holdout=self.holdout / self.declared, test=0.0)
        return assemble(
            name=self.name,
            source=source,
            train=pool.take(train),
            holdout=pool.take(holdout),
            test=test,
            classes=classes,
            mean=self.mean,
            std=self.std,
            key=key,
        )

    def _folder(self) -> Path:
        """The folder that holds the files, after downloading them if there is none."""
        cache = cache_folder(self.cache)
        for folder in (*local_folders(self.root), cache):
            if self._npz(folder).is_file() or (folder / FOLDER[self.name]).is_dir():
                return folder
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # Under another name until it is whole, so that a broken download leaves nothing behind.
            with tempfile.TemporaryDirectory(dir=cache) as unfinished:
                TORCHVISION[self.name](unfinished, download=True)
                (Path(unfinished) / FOLDER[self.name]).replace(cache / FOLDER[self.name])
        except (OSError, RuntimeError) as error:
            raise missing(
                f"{self.name}.npz (or torchvision's folder {FOLDER[self.name]})",
                url="torchvision's download",
                root=self.root,
                cache=self.cache,
                reason=error,
            ) from error
        return cache

    def _npz(self, folder: Path) -> Path:
        return folder / f"{self.name}.npz"

    def _read(self, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
        """Where the arrays come from, in words, and the arrays."""
        if self._npz(folder).is_file():
            return str(self._npz(folder)), read_npz(self._npz(folder), KEYS)
        try:
            parts = {
                part: TORCHVISION[self.name](folder, train=part == "train") for part in ("train", "test")
            }
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"torchvision cannot read {folder / FOLDER[self.name]} ({error}): "
                f"remove it, to download it again"
            ) from error
        return f"{folder / FOLDER[self.name]}, torchvision's files", {
            **{f"{part}_images": np.asarray(read.data) for part, read in parts.items()},
            **{f"{part}_labels": np.asarray(read.targets) for part, read in parts.items()},
        }


UBYTE = 8  # the only type of numbers that images and labels are stored in
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def find_idx(folder: Path) -> dict[str, Path] | None:
    """The four files of images and labels in this folder, packed or not; None unless all are there."""
    found = {
        key: path
        for key, name in FILES.items()
        for path in (folder / f"{name}.gz", folder / name)
        if path.is_file()
    }
    return found if len(found) == len(FILES) else None


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes; raises DataError where it is damaged or is not one.

    Source: LeCun, Cortes and Burges, "The MNIST database", file formats.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): copy the file again") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, UBYTE]):
        raise DataError(f"{path} is not an idx file of bytes: give the files as their publisher stores them")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path} is cut short in its first {start} bytes; copy it again")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">i4"))
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} is cut short: it holds {len(content) - start} of {math.prod(shape)} bytes; copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
