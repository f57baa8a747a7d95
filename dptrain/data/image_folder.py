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
from dptrain.data.splits import Cut, assignment_key, number_groups

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
PILLOW_MODES = {"grayscale": "L", "rgb": "RGB"}
WHITE_8_BIT, WHITE_16_BIT = 255.0, 65535.0


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Cut):
    """Image files of `root/<class>/`, or of `root/train/<class>/`, with `test` and `val` beside `train`.

    A part without a folder is cut from the training images, each by a keyed hash of itself. Images are
    resized to `size` (height, width in pixels) without keeping their proportions. `group_pattern`, matched
    from the start of the file's name, captures whose image it is (`(patient\\d+)`); a patient is
    never divided. Classes are the folders' names, in order. `lazy` decodes images when they are
    needed, for more than memory holds; `workers` threads decode (default: one a processor).
    """

    root: str
    size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    mode: str = "grayscale"
    group_pattern: str | None = None
    lazy: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in PILLOW_MODES:
            raise ConfigError(f"data.mode={self.mode} must be one of {', '.join(PILLOW_MODES)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(
                f"data.size={list(self.size)} must be height and width in pixels; e.g. [64, 64]"
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(
                f"data.workers={self.workers} must be at least 1 thread; or null, one a processor"
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
        parts = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
        if "train" not in parts:
            parts = {"train": root}
        classes = _folders(parts["train"])
        if len(classes) < 2:
            raise DataError(
                f"{parts['train']} holds {len(classes)} class folders ({', '.join(classes) or 'none'}): "
                f"make one folder for each of at least two classes"
            )
        files = {part: _files(folder, classes) for part, folder in parts.items()}
        patients = {part: self._patients(listed) for part, listed in files.items()}
        _refuse_shared(patients, root)
        records = {part: self._read(listed) for part, listed in files.items()}
        height, width = self.size
        return self.cut(
            records,
            number_groups(patients["train"]) if self.group_pattern else None,
            number_groups(patients["val"]) if self.group_pattern and "val" in patients else None,
            key,
            name=root.name,
            source=f"{root}, {sum(map(len, files.values()))} files as {height}x{width} {self.mode}",
            classes=classes,
            mean=self.mean,
            std=self.std,
        )

    def _patients(self, files: Sequence[tuple[Path, int]]) -> list[str]:
        """Whose image each file is; none if there is no pattern."""
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
        height, width = self.size
        try:
            with Image.open(path) as opened:
                image = _depth_kept(ImageOps.exif_transpose(opened), path)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}): repair or remove it") from error
        if image.mode == "F":
            white, channels = WHITE_16_BIT, 3 if self.mode == "rgb" else 1
        else:
            image, white, channels = image.convert(PILLOW_MODES[self.mode]), WHITE_8_BIT, 1
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float32).reshape(height, width, -1) / np.float32(white)
        return np.repeat(pixels, channels, axis=-1).clip(0.0, 1.0)


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


def _depth_kept(image: Image.Image, path: Path) -> Image.Image:
    """The image, decoded; if of 16 bits a pixel, as floats, which Pillow's conversion would clip."""
    if image.mode == "F":
        raise DataError(
            f"{path} holds floating-point pixels, whose range is unknown: save it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return Image.fromarray(np.asarray(image).astype(np.float32))
    image.load()
    return image


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Image files of the class folders, with their labels, in order of name."""
    if _folders(folder) != list(classes):
        raise DataError(
            f"{folder} holds the class folders {', '.join(_folders(folder)) or 'none'}, "
            f"but the training images have {', '.join(classes)}: make them alike"
        )
    listed = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("[!.]*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}): add some or remove the folder"
            )
        listed += [(path, label) for path in found]
    return listed


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
