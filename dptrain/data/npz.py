"""A user's own npz file, or folder of npy files, read or mapped and converted where they are read."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Raw, Records, Splits
from dptrain.data.checks import check_images, convert, same_count, to_inputs, to_records
from dptrain.data.files import called, read_npz
from dptrain.data.labels import Target
from dptrain.data.raw import of_images
from dptrain.data.raw_pixels import MODES
from dptrain.data.splits import Cut, assignment_key, number_groups

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
        with _opened(path) as archive:
            held = {name.removesuffix(".npy"): path for name in archive.namelist()}
    else:
        raise DataError(f"{path} is neither an npz file nor a folder of .npy files: make it with numpy.savez")
    lacking = [key for key in required if key not in held]
    if lacking:
        raise DataError(
            f"{path} lacks {', '.join(lacking)} and holds {', '.join(held) or 'nothing'}: "
            f"save the arrays under the names {', '.join(required)}"
        )
    wanted = called(list(held), (*required, *optional))
    return {key: _map_file(held[key]) if path.is_dir() else _map_member(path, key) for key in wanted}


def _map_file(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be mapped ({error}): save it as plain numbers") from error


def _map_member(path: Path, key: str) -> np.ndarray:
    with _opened(path) as archive, path.open("rb") as file:
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise DataError(
                f"{key} of {path} is compressed, so it cannot be read in part: save the file anew with "
                "numpy.savez instead of numpy.savez_compressed, or as a folder of .npy files; or set "
                "data.lazy=false if it fits into memory"
            )
        try:
            # The lengths of its name and its extra field; in a file that was cut, before its beginning.
            file.seek(info.header_offset + LOCAL_HEADER_BYTES - 4)
            name_bytes, extra_bytes = np.frombuffer(file.read(4), dtype="<u2").tolist()
            file.seek(info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
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
        except (ValueError, KeyError, OSError, OverflowError) as error:
            raise DataError(
                f"{key} of {path} cannot be mapped ({error}): save it as plain numbers, and whole"
            ) from error


def _opened(path: Path) -> zipfile.ZipFile:
    """An npz file; raises DataError where what lists its members is damaged."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read ({error}): save it again with numpy.savez") from error


REQUIRED = ("train_images", "train_labels")
PARTS = ("train", "val", "test")
SUBGROUP = "test_subgroup_"
OPTIONAL = (
    *(f"{part}_{kind}" for part in ("val", "test", "public") for kind in ("images", "labels")),
    *(f"{part}_groups" for part in PARTS),
    f"{SUBGROUP}*",
)


@dataclass(frozen=True, kw_only=True)
class Npz(Cut):
    """Images of an npz file, or a folder of .npy files: `train_images` (N, H, W[, C]), `train_labels` (N,).

    Images are uint8, or floats in `bounds`. `val_...` (held out; must be drawn as the training
    records are) and `test_...` are optional: a part that the file lacks is cut from the training
    records, each by a keyed hash of itself. `train_groups` (N,), numbers or names, say whose record each
    is; a group is never divided. `public_images` and `public_labels` are of nobody who must be protected:
    the evaluator of class inversions learns from them. `test_subgroup_NAME` (N,), numbers or names, tell test
    records apart, such as `test_subgroup_scanner`: utility is measured for each. `classes` names each label,
    for how many there are is public, not counted. Labels may be several a record, (N, labels) of 0 and 1, or
    numbers within `target_bounds`: `task` says so.
    `lazy` leaves the images in the file, for more than memory holds; it must not be compressed.
    """

    path: str
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[Any] | None = None  # words or whole numbers
    bounds: Sequence[float] = (0.0, 1.0)
    task: str = "classification"
    target_bounds: Sequence[float] | None = None
    lazy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
            raise ConfigError(
                f"data.bounds={list(self.bounds)} must be two numbers, the lower first; e.g. [0, 1]"
            )
        _ = self.target

    @cached_property
    def target(self) -> Target:
        """What labels are declared to be; raises ConfigError."""
        return Target.of(self.task, classes=self.classes, bounds=self.target_bounds)

    def load(self, rng: torch.Generator) -> Splits:
        path, key = Path(self.path).expanduser(), assignment_key(rng, self.split_key)
        read = map_arrays if self.lazy or path.is_dir() else read_npz
        arrays = read(path, REQUIRED, OPTIONAL)
        given = {
            part: self._records(arrays, part, path)
            for part in (*PARTS, "public")
            if f"{part}_images" in arrays or f"{part}_labels" in arrays
        }
        return self.cut(
            given,
            _groups(arrays, given, path),
            number_groups(arrays["val_groups"]) if "val_groups" in arrays else None,
            key,
            tested_groups=number_groups(arrays["test_groups"]) if "test_groups" in arrays else None,
            name=path.stem,
            source=str(path),
            classes=self.target.classes,
            task=self.target.task,
            mean=self.mean,
            std=self.std,
            public=given.get("public"),
            subgroups=_subgroups(arrays, given, path),
            raw=self._raw(arrays["train_images"], given["train"]),
        )

    def _raw(self, stored: np.ndarray, records: Records) -> Raw | None:
        """How whoever serves a model of these images reads them; None where no image file is like them."""
        if records.shape[0] not in MODES:
            return None
        return of_images(
            records.shape, declared=None if stored.dtype == np.uint8 else self.bounds, clip=False
        )

    def _records(self, arrays: Mapping[str, np.ndarray], part: str, path: Path) -> Records:
        for key in (f"{part}_images", f"{part}_labels"):
            if key not in arrays:
                raise DataError(f"{path} lacks {key}: save images and labels of a part together, or neither")
        low, high = self.bounds
        return to_records(
            arrays,
            part,
            where=str(path),
            num_classes=len(self.target.classes),
            read_labels=self.target.read,
            bounds=(float(low), float(high)),
            make_inputs=MappedImages if self.lazy else to_inputs,
        )


def _groups(arrays: Mapping[str, np.ndarray], given: Mapping[str, Records], path: Path) -> Tensor | None:
    """Group ids of the training records, or None; raises DataError for a patient in two parts of the file."""
    for part in PARTS:
        if f"{part}_groups" in arrays and part not in given:
            raise DataError(
                f"{path} holds {part}_groups but no {part}_images: save the records of that part, too, or "
                "leave its groups out"
            )
    named = {part: arrays[f"{part}_groups"] for part in given if f"{part}_groups" in arrays}
    for part, names in named.items():
        _check_names(names, f"{part}_groups", given[part], path)
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        one, other = (named.get(part, np.array([])).tolist() for part in (first, second))
        if shared := set(one) & set(other):
            places = [next(at for at, name in enumerate(each) if name in shared) for each in (one, other)]
            raise DataError(
                f"{len(shared)} patients are in both {first}_groups and {second}_groups of {path}, first at "
                f"records {places[0]} and {places[1]}: keep all records of a patient in one part"
            )
    return number_groups(named["train"]) if "train" in named else None


def _subgroups(
    arrays: Mapping[str, np.ndarray], given: Mapping[str, Records], path: Path
) -> dict[str, list[str]]:
    """By what test records are told apart, the value of each."""
    found = {key: values for key, values in arrays.items() if key.startswith(SUBGROUP)}
    for key, values in found.items():
        if "test" not in given:
            raise DataError(f"{path} holds {key} but no test_images: save those of the test records, too")
        _check_names(values, key, given["test"], path)
        if key == SUBGROUP:
            raise DataError(f"{path} holds {key} without a name: call it {key}scanner, or what it tells of")
    return {key.removeprefix(SUBGROUP): _texts(values, key, path) for key, values in found.items()}


def _texts(values: np.ndarray, key: str, path: Path) -> list[str]:
    """Numbers or names as text, bytes among them in UTF-8."""
    try:
        return (np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)).tolist()
    except UnicodeDecodeError:
        raise DataError(f"{key} of {path} holds bytes that are no UTF-8: store text instead") from None


def _check_names(names: np.ndarray, key: str, records: Records, path: Path) -> None:
    """Raises DataError unless these are numbers or names, one a record."""
    if names.ndim != 1 or names.dtype.kind not in "iuUS":
        raise DataError(
            f"{key} of {path} is {names.dtype} of shape {names.shape}: store one number or name a record"
        )
    same_count(names, records.labels, name=f"{key} of {path}", other=f"{key.partition('_')[0]}_labels")
