"""From image files to arrays of one size, whatever they are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dptrain.contracts import ConfigError, DataError, Raw
from dptrain.data.checks import convert
from dptrain.data.dicom import is_dicom, read_dicom
from dptrain.data.raw import of_images
from dptrain.data.raw_pixels import WHITE_16_BIT, resized

CHANNELS = {"grayscale": 1, "rgb": 3}
LOOKED_AT = 32  # so many images tell whether 16 bits are used
DARK = 1 / 8  # of white; 12 bits reach a sixteenth of what 16 do


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How images become arrays: resized to `size` (height, width), in a `mode`, scaled by a declared `range`.

    `range` is the darkest and the brightest value of images deeper than 8 bits; `workers`
    threads decode (None: one a processor). Raises ConfigError.
    """

    size: Sequence[int]
    mode: str = "grayscale"
    range: Sequence[float] | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
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

    @property
    def threads(self) -> int:
        return self.workers or os.cpu_count() or 1

    @property
    def raw(self) -> Raw:
        """How whoever serves a model of these images reads them."""
        height, width = self.size
        return of_images((CHANNELS[self.mode], height, width), declared=self.range)

    def read(self, file: Path | BinaryIO, where: str) -> np.ndarray:
        """One image, (H, W, C) in `size`, float32 in (0, 1); `where` names it in errors."""
        declared = (0.0, 1.0) if is_dicom(file) else self.range
        image = self.open(file, where)
        return resized(image, size=self.size, channels=CHANNELS[self.mode], declared=declared)

    def open(self, file: Path | BinaryIO, where: str) -> Image.Image:
        """The image, decoded; deeper than 8 bits a pixel as floats. Raises DataError."""
        try:
            if is_dicom(file):
                return _finite(read_dicom(file, where=where, declared=self.range), where)
            with Image.open(file) as opened:
                if (frames := getattr(opened, "n_frames", 1)) > 1:
                    raise DataError(
                        f"{where} holds {frames} images in one file: save each in a file of its own"
                    )
                return self._decoded(ImageOps.exif_transpose(opened), where)
        except (DataError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{where} says that it has too many pixels to be an image ({error}): repair or remove it"
            ) from error
        except Exception as error:  # Pillow's decoders raise what they come upon
            told = str(error) if isinstance(error, OSError | SyntaxError) else type(error).__name__
            known = "in no known format" if isinstance(error, UnidentifiedImageError) else told
            raise DataError(f"{where} cannot be read as an image ({known}): repair or remove it") from error

    def _decoded(self, image: Image.Image, where: str) -> Image.Image:
        if image.mode == "F" and self.range is None:
            raise DataError(
                f"{where} holds floating-point pixels, whose range is unknown: declare it by data.range=[0,1]"
            )
        if image.mode == "F" or image.mode.startswith("I"):  # which Pillow's conversion would clip
            return _finite(Image.fromarray(np.asarray(image).astype(np.float32)), where)
        image.load()
        return image

    def refuse_dark(self, files: Iterable[Path | BinaryIO], where: str) -> None:
        """Raise DataError where 16 bits hold values of fewer and no range is declared: all would be black."""
        if self.range is not None:
            return
        brightest = 0.0
        for file in files:
            try:
                image = self.open(file, where)
            except DataError:  # what cannot be read is told when it is read
                return
            if image.mode != "F" or is_dicom(file):
                return
            brightest = max(brightest, float(np.asarray(image).max()))
        if brightest < DARK * WHITE_16_BIT:
            raise DataError(
                f"{where}: its images have 16 bits a pixel and are all but black, so their "
                "values are likely of fewer bits; declare the range, such as data.range=[0,4095] for 12, "
                "or data.range=[0,65535] if they are that dark"
            )


def looked_at(count: int) -> range:
    """Places, of so many images, of those that tell whether 16 bits are used."""
    return range(0, count, max(1, count // LOOKED_AT))


def _finite(image: Image.Image, where: str) -> Image.Image:
    if not np.isfinite(np.asarray(image)).all():
        raise DataError(f"{where} holds pixels that are no numbers: repair or remove it")
    return image


class Images:
    """Rows of images: decoded when they are read, by several threads at once."""

    def __init__(self, files: Sequence[Any], decode: Callable[[Any], np.ndarray], workers: int) -> None:
        self.files, self.decode, self.workers = files, decode, workers
        height, width, channels = decode(files[0]).shape
        self.shape = len(files), channels, height, width

    def read(self, indices: Tensor) -> Tensor:
        images = np.empty((len(indices), *self.shape[2:], self.shape[1]), dtype=np.float32)
        with ThreadPoolExecutor(self.workers) as pool:  # Pillow decodes without holding the others up
            decoded = pool.map(self.decode, [self.files[place] for place in indices.tolist()])
            for place, image in enumerate(decoded):
                images[place] = image
        return convert(images, bounds=(0.0, 1.0))
