"""A user's own folder of image files, one folder a class."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Records, Splits
from dptrain.data.checks import convert
from dptrain.data.folders import class_folders, find_parts, group_by_folder, group_by_table, list_images
from dptrain.data.pixels import WHITE_16_BIT, resized
from dptrain.data.raw import of_images
from dptrain.data.splits import Cut, assignment_key, number_groups

CHANNELS = {"grayscale": 1, "rgb": 3}
LOOKED_AT, DARK = (
    32,
    1 / 8,
)  # so many images tell whether 16 bits are used; 12 bits reach a sixteenth of white


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Cut):
    """Image files of `root/<class>/`, or of `root/train/<class>/`, with `test` and `val` beside `train`.

    A part without a folder is cut from the training images, each by a keyed hash of itself. Images are
    resized to `size` (height, width in pixels) without keeping their proportions. Whose image it is, is
    captured by `group_pattern`, matched from the start of the file's name (`(patient\\d+)`), or said by the
    folder in the class folder that holds it (`group_folder`), or by a CSV (`group_file`); a patient is
    never divided. Classes are the folders' names, in order. `range` declares the darkest and the brightest
    value of images deeper than 8 bits. `lazy` decodes images when they are needed, for more than memory
    holds; `workers` threads decode (default: one a processor).
    """

    root: str
    size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    mode: str = "grayscale"
    group_pattern: str | None = None
    group_folder: bool = False
    group_file: str | None = None
    range: Sequence[float] | None = None
    lazy: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in CHANNELS:
            raise ConfigError(f"data.mode={self.mode} must be one of {', '.join(CHANNELS)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(
                f"data.size={list(self.size)} must be height and width in pixels; e.g. [64, 64]"
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(
                f"data.workers={self.workers} must be at least 1 thread; or null, one a processor"
            )
        if self.range is not None and (len(self.range) != 2 or not self.range[0] < self.range[1]):
            raise ConfigError(
                f"data.range={list(self.range)} must be the darkest and the brightest value; e.g. [0, 4095]"
            )
        if (self.group_pattern is not None) + self.group_folder + (self.group_file is not None) > 1:
            raise ConfigError(
                "data.group_pattern, data.group_folder and data.group_file are three ways to say whose an "
                "image is; choose one"
            )
        if self.group_pattern is not None:
            try:
                captures = re.compile(self.group_pattern).groups
            except re.error as error:
                raise ConfigError(
                    f"data.group_pattern={self.group_pattern} is no pattern ({error})"
                ) from error
            if captures != 1:
                raise ConfigError(
                    f"data.group_pattern={self.group_pattern} must capture one group; e.g. '(patient[0-9]+)'"
                )

    def load(self, rng: torch.Generator) -> Splits:
        root, key = Path(self.root).expanduser(), assignment_key(rng, self.split_key)
        if not root.is_dir():
            raise DataError(f"data.root={root} is not a folder: name the folder that holds the class folders")
        parts = find_parts(root)
        classes = class_folders(parts["train"])
        if len(classes) < 2:
            raise DataError(
                f"{parts['train']} holds {len(classes)} class folders ({', '.join(classes) or 'none'}): "
                f"make one folder for each of at least two classes"
            )
        nested = self.group_folder or self.group_file is not None
        files = {part: list_images(folder, classes, nested=nested) for part, folder in parts.items()}
        patients = {part: self._patients(listed, parts[part]) for part, listed in files.items()}
        _refuse_shared(patients, root)
        self._refuse_dark(files["train"])
        records = {part: self._read(listed) for part, listed in files.items()}
        height, width = self.size
        return self.cut(
            records,
            number_groups(patients["train"]) if patients["train"] else None,
            number_groups(patients["val"]) if patients.get("val") else None,
            key,
            name=root.name,
            source=f"{root}, {sum(map(len, files.values()))} files as {height}x{width} {self.mode}",
            classes=classes,
            mean=self.mean,
            std=self.std,
            raw=of_images((CHANNELS[self.mode], height, width), declared=self.range),
        )

    def _patients(self, files: Sequence[tuple[Path, int]], folder: Path) -> list[str]:
        """Whose image each file of a part is; none if nothing tells."""
        if self.group_folder:
            return group_by_folder(files, folder)
        if self.group_file is not None:
            return group_by_table(files, Path(self.root).expanduser(), self.group_file)
        if self.group_pattern is None:
            return []
        found = [re.match(self.group_pattern, path.name) for path, _ in files]
        for match, (path, _) in zip(found, files, strict=True):
            if match is None or not match[1]:
                raise DataError(
                    f"the name of {path} does not match data.group_pattern={self.group_pattern}: "
                    f"rename the file or widen the pattern"
                )
        return [match[1] for match in found if match]

    def _read(self, files: Sequence[tuple[Path, int]]) -> Records:
        rows = ImageFiles([path for path, _ in files], self._read_image, self.workers or os.cpu_count() or 1)
        labels = torch.tensor([label for _, label in files])
        return Records(rows, labels) if self.lazy else Records(rows, labels).read()

    def _read_image(self, path: Path) -> np.ndarray:
        """One image, (H, W, C) in `size`, float32 in (0, 1)."""
        return resized(self._open(path), size=self.size, channels=CHANNELS[self.mode], declared=self.range)

    def _refuse_dark(self, files: Sequence[tuple[Path, int]]) -> None:
        """Raise DataError where 16 bits hold values of fewer and no range is declared: all would be black."""
        if self.range is not None:
            return
        brightest = 0.0
        for path, _ in files[:: max(1, len(files) // LOOKED_AT)]:
            try:
                image = self._open(path)
            except DataError:  # what cannot be read is told when it is read
                return
            if image.mode != "F":
                return
            brightest = max(brightest, float(np.asarray(image).max()))
        if brightest < DARK * WHITE_16_BIT:
            raise DataError(
                f"data.root={self.root}: its images have 16 bits a pixel and are all but black, so their "
                "values are likely of fewer bits; declare the range, such as data.range=[0,4095] for 12, "
                "or data.range=[0,65535] if they are that dark"
            )

    def _open(self, path: Path) -> Image.Image:
        try:
            with Image.open(path) as opened:
                if (frames := getattr(opened, "n_frames", 1)) > 1:
                    raise DataError(
                        f"{path} holds {frames} images in one file: save each in a file of its own"
                    )
                return self._decoded(ImageOps.exif_transpose(opened), path)
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{path} says that it has too many pixels to be an image ({error}): repair or remove it"
            ) from error
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}): repair or remove it") from error

    def _decoded(self, image: Image.Image, path: Path) -> Image.Image:
        """The image, decoded; deeper than 8 bits a pixel as floats, for Pillow's conversion would clip."""
        if image.mode == "F" and self.range is None:
            raise DataError(
                f"{path} holds floating-point pixels, whose range is unknown: declare it by data.range=[0,1]"
            )
        if image.mode == "F" or image.mode.startswith("I"):
            pixels = np.asarray(image).astype(np.float32)
            if not np.isfinite(pixels).all():
                raise DataError(f"{path} holds pixels that are no numbers: repair or remove it")
            return Image.fromarray(pixels)
        image.load()
        return image


class ImageFiles:
    """Rows of image files: decoded when they are read, by several threads at once."""

    def __init__(self, paths: Sequence[Path], decode: Callable[[Path], np.ndarray], workers: int) -> None:
        self.paths, self.decode, self.workers = paths, decode, workers
        height, width, channels = decode(paths[0]).shape
        self.shape = len(paths), channels, height, width

    def read(self, indices: Tensor) -> Tensor:
        images = np.empty((len(indices), *self.shape[2:], self.shape[1]), dtype=np.float32)
        with ThreadPoolExecutor(self.workers) as pool:  # Pillow decodes without holding the others up
            decoded = pool.map(self.decode, [self.paths[place] for place in indices.tolist()])
            for place, image in enumerate(decoded):
                images[place] = image
        return convert(images, bounds=(0.0, 1.0))


def _refuse_shared(patients: dict[str, list[str]], root: Path) -> None:
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        one, other = patients.get(first, []), patients.get(second, [])
        if shared := set(one) & set(other):
            pair = (one, other)
            places = [next(at for at, name in enumerate(each, 1) if name in shared) for each in pair]
            raise DataError(
                f"{len(shared)} patients have images in both {root / first} and {root / second} (the first "
                f"are files {places[0]} and {places[1]}, in order of class and name): keep all images of a "
                "patient in one folder"
            )
