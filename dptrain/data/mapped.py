"""Arrays that stay in their files: mapped into memory, and converted where they are read."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dptrain.contracts import DataError
from dptrain.data.checks import check_images, convert

LOCAL_HEADER_BYTES = 30  # of a zip member, before its name and its extra field
READ_AHEAD_BYTES = 1 << 16  # records that are larger gain by what a system reads ahead of its own accord


class MappedImages:
    """Images of a mapped array, (N, H, W) or (N, H, W, C): checked once, chunk by chunk, and kept as stored.

    Raises DataError where `to_inputs` would; reads what that makes of them, bit for bit.
    """

    def __init__(self, images: np.ndarray, *, name: str, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        self.images = check_images(images, name=name, bounds=bounds)
        self.bounds = bounds
        if self.images[0].nbytes < READ_AHEAD_BYTES:
            _expect_no_order(images)

    @property
    def shape(self) -> tuple[int, ...]:
        count, height, width, channels = self.images.shape
        return count, channels, height, width

    def read(self, indices: Tensor) -> Tensor:
        return convert(self.images[indices.numpy()], bounds=self.bounds)


def _expect_no_order(images: np.ndarray) -> None:
    """Tell the system not to read on beyond what is asked for: a batch is drawn from all over the file.

    Without, each of a batch's small records costs a read of some 128 KB.
    """
    mapped: object = images
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)


def map_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named arrays of a folder of .npy files, or of an npz file that is not compressed, mapped.

    Raises DataError if it lacks one, or if one cannot be mapped: a compressed array has no place in
    the file at which it could be read in part. An npz file's checksums are not looked at.
    """
    if path.is_dir():
        held = {file.stem: file for file in sorted(path.glob("*.npy"))}
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy"): path for name in archive.namelist()}
    else:
        raise DataError(f"{path} is neither an npz file nor a folder of .npy files: make it with numpy.savez")
    lacking = [key for key in required if key not in held]
    if lacking:
        raise DataError(
            f"{path} lacks {', '.join(lacking)} and holds {', '.join(held) or 'nothing'}: "
            f"save the arrays under the names {', '.join(required)}"
        )
    wanted = [key for key in (*required, *optional) if key in held]
    return {key: _map_file(held[key]) if path.is_dir() else _map_member(path, key) for key in wanted}


def _map_file(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be mapped ({error}): save it as plain numbers") from error


def _map_member(path: Path, key: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise DataError(
                f"{key} of {path} is compressed, so it cannot be read in part: save the file anew with "
                "numpy.savez instead of numpy.savez_compressed, or as a folder of .npy files; or set "
                "data.lazy=false if it fits into memory"
            )
        file.seek(info.header_offset + LOCAL_HEADER_BYTES - 4)  # the lengths of its name and its extra field
        name_bytes, extra_bytes = np.frombuffer(file.read(4), dtype="<u2").tolist()
        file.seek(info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, by_columns, dtype = read_header(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")  # whose addresses meant something elsewhere
            place = file.tell()
            if by_columns:
                return np.memmap(path, dtype, "r", place, shape, order="F")
            return np.memmap(path, dtype, "r", place, shape)
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{key} of {path} cannot be mapped ({error}): save it as plain numbers"
            ) from error
