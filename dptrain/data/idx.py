"""Files in the format of MNIST (idx), packed or not, as its publishers and Linux distributions ship them."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from dptrain.contracts import DataError

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
