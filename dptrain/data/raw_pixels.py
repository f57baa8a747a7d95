"""Pixels of images: from a file's or an array's to those that a model takes.

A copy of this file goes with every served model of images, so that it imports nothing of this package.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

MODES = {1: "L", 3: "RGB"}  # by the number of channels
WHITE_8_BIT, WHITE_16_BIT = 255.0, 65535.0
COLUMN = "image"
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")  # Pillow knows others, which run programs
MOST_PIXELS: int | None = None  # of the files of one table together, where whoever reads them sets a limit

Range = Sequence[float] | None  # the darkest and the brightest value of pixels deeper than 8 bits


def resized(image: Image.Image, *, size: Sequence[int], channels: int, declared: Range) -> np.ndarray:
    """An image, decoded, as (H, W, C) float32 in (0, 1) of this size (height, width)."""
    height, width = size
    repeated, (low, high) = 1, (0.0, WHITE_8_BIT)
    if image.mode == "F":
        low, high = declared or (0.0, WHITE_16_BIT)
        repeated = channels
        # Before a pixel far outside spreads to its neighbours.
        image = Image.fromarray(np.asarray(image).clip(low, high))
    else:
        image = image.convert(MODES[channels])
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float32).reshape(height, width, -1)
    pixels = (pixels - np.float32(low)) / np.float32(high - low)
    return np.repeat(pixels, repeated, axis=-1).clip(0.0, 1.0)


def read(table: pd.DataFrame, settings: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Inputs (N, C, H, W) of the images in a table's one column, and all that is wrong, in words.

    A cell holds a file's bytes (in base64, where it is text), or pixels (H, W, C). Those of 8 bits lie in
    (0, 255), deeper ones in the declared range; those with a fraction in that, or else in the model's bounds.
    Whole numbers of no type, as in JSON, are of 8 bits; refused where a range is declared.
    """
    inputs, problems, left = [], [], [MOST_PIXELS]
    for row, cell in enumerate(table[COLUMN]):
        try:
            inputs.append(_read(cell, left, **settings))
        except Unfit as error:
            problems.append(f"row {row}: {error}")
        except Exception:  # whatever a decoder raises of a broken file; its words may quote the file
            problems.append(f"row {row}: is no image that can be read")
    return np.stack(inputs) if inputs else np.zeros(0, np.float32), problems


class Unfit(ValueError):
    """What is wrong with an image, in words of our own."""


def _read(
    cell: Any,
    left: list[int | None],
    *,
    shape: Sequence[int],
    bounds: Sequence[float],
    declared: Range,
    clip: bool,
) -> np.ndarray:
    channels, *size = shape
    if isinstance(cell, str):
        cell = base64.b64decode(cell, validate=True)
    if isinstance(cell, bytes):
        pixels = resized(_decoded(cell, declared, left), size=size, channels=channels, declared=declared)
    else:
        pixels = _scaled(
            np.asarray(cell), shape=(*size, channels), bounds=bounds, declared=declared, clip=clip
        )
    low, high = bounds
    return np.moveaxis(np.float32(low) + np.float32(high - low) * pixels, -1, 0)


def _decoded(held: bytes, declared: Range, left: list[int | None]) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(held), formats=FORMATS)
    except UnidentifiedImageError:
        raise Unfit("is no image file in a known format") from None
    with opened:
        if left[0] is not None:  # before anything is decoded
            left[0] -= opened.width * opened.height
            if left[0] < 0:
                raise Unfit(f"and the images before it have more than {MOST_PIXELS:,} pixels")
        if getattr(opened, "n_frames", 1) > 1:
            raise Unfit("holds several images; give each as one of its own")
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F" and declared is None:
            raise Unfit("holds floating-point pixels, whose range is unknown; give whole numbers")
        if image.mode.startswith(("I", "F")):  # deeper than 8 bits, which Pillow's conversion would clip
            return Image.fromarray(_finite(np.asarray(image).astype(np.float32)))
        image.load()
        return image


def _scaled(
    array: np.ndarray, *, shape: tuple[int, ...], bounds: Sequence[float], declared: Range, clip: bool
) -> np.ndarray:
    """Pixels (H, W, C), or (H, W) of one channel, in (0, 1)."""
    array = array[..., None] if array.shape == shape[:2] and shape[2] == 1 else array
    if array.shape != shape or array.dtype.kind not in "uif":
        raise Unfit(f"is neither an image file nor numbers of shape {shape} (height, width, channels)")
    low, high = declared or bounds
    if array.dtype == np.uint8 or (array.dtype.kind in "ui" and declared is None):
        low, high = 0.0, WHITE_16_BIT if array.dtype == np.uint16 else WHITE_8_BIT
    elif array.dtype.kind in "ui" and array.dtype != np.uint16:
        raise Unfit(
            "holds whole numbers that may be of 8 bits or deeper; give an image file, or numbers with a "
            f"fraction (1.0) in {low:g} ... {high:g}"
        )
    array = _finite(array)
    if not (clip and declared) and not (array.min() >= low and array.max() <= high):
        raise Unfit(f"holds pixels outside {low:g} ... {high:g}")
    pixels = (array - np.float32(low)) / np.float32(high - low)
    return pixels.astype(np.float32).clip(0.0, 1.0)


def _finite(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise Unfit("holds pixels that are no numbers")
    return pixels
