"""DICOM images, which the extra `dicom` reads: their pixels, and nothing that they say of a person."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dptrain.contracts import DataError

PREAMBLE_BYTES, MAGIC = 128, b"DICM"
# Nothing else is read of a file, so that nothing else can come into a message.
PIXEL_TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ModalityLUTSequence",
    "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth",
    "PixelData", "FloatPixelData", "DoubleFloatPixelData",
]  # fmt: skip
FAR = 1e12  # beyond every window


def is_dicom(file: Path | BinaryIO) -> bool:
    """Whether a file begins as DICOM files do; an open one, wherever it is, is left at its start."""
    if isinstance(file, Path):
        try:
            with file.open("rb") as opened:
                return is_dicom(opened)
        except OSError:  # which is told when it is read
            return False
    file.seek(0)
    head = file.read(PREAMBLE_BYTES + len(MAGIC))
    file.seek(0)
    return head[PREAMBLE_BYTES:] == MAGIC


def read_dicom(file: Path | BinaryIO, *, where: str, declared: Sequence[float] | None) -> Image.Image:
    """Grey levels as floats between 0 (black) and 1, or colours of 8 bits.

    Grey levels are rescaled to what they measure. Black and white are the `declared` range, or the file's
    own window (or lookup table). Raises DataError.
    Source: DICOM PS3.3, C.11.1 (modality) and C.11.2 (VOI).
    """
    pydicom = _pydicom(where)
    try:
        held = pydicom.dcmread(file, specific_tags=PIXEL_TAGS)
        for name in PIXEL_TAGS:
            if name in held and not held.get_item(name).value:  # a tag without a value says nothing
                del held[name]
        frames = int(held.get("NumberOfFrames") or 1)
        pixels = int(held.Rows) * int(held.Columns)
        grey = str(held.PhotometricInterpretation).startswith("MONOCHROME")
        if frames == 1 and pixels <= _most_pixels():
            values = pydicom.pixels.pixel_array(held)
            return _grey(values, held, where, declared) if grey else _coloured(values, where)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # Without the reader's own text, which may quote a tag.
        raise DataError(
            f"{where} cannot be read as DICOM ({type(error).__name__}): repair or remove it; if it is "
            "compressed, store it uncompressed, or pip install pylibjpeg and its decoders"
        ) from None
    if frames > 1:
        raise DataError(f"{where} holds several images in one file: save each in a file of its own")
    raise DataError(f"{where} says that it has too many pixels to be an image: repair or remove it")


def _pydicom(where: str) -> ModuleType:
    """pydicom, which tells no value of what it reads: neither as a warning nor in its log."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise DataError(f'{where} is DICOM: pip install "dptrain[dicom]" to read it, or remove it') from error
    _silence(pydicom)
    return pydicom


@cache
def _silence(pydicom: ModuleType) -> None:
    """Once, for what it changes is the whole process's, and images are read by many threads."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom\.|dptrain\.data\.dicom")


def _most_pixels() -> int:
    """As many as Pillow opens."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**62)


def _coloured(values: np.ndarray, where: str) -> Image.Image:
    if values.dtype != np.uint8 or values.ndim != 3:
        raise DataError(f"{where} holds neither grey levels nor colours of 8 bits: convert or remove it")
    return Image.fromarray(values)


def _grey(values: np.ndarray, held: Any, where: str, declared: Sequence[float] | None) -> Image.Image:
    from pydicom.pixels.processing import apply_modality_lut

    values = apply_modality_lut(values, held)
    if declared is not None:
        low, high = declared
        scaled = (values - low) / (high - low)
    elif "VOILUTSequence" in held or ("WindowWidth" in held and "WindowCenter" in held):
        scaled = _windowed(values, held)
    else:
        raise DataError(
            f"{where} has no window of its own: declare the darkest and the brightest value for all images, "
            "such as data.range=[-1000,1000] of Hounsfield units"
        )
    inverted = held.PhotometricInterpretation == "MONOCHROME1"
    return Image.fromarray(np.asarray(1 - scaled if inverted else scaled, dtype=np.float32))


def _windowed(values: np.ndarray, held: Any) -> np.ndarray:
    """Values by the file's own window or lookup table, between 0 and 1."""
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if "VOILUTSequence" in held:
        descriptor = held.VOILUTSequence[0].LUTDescriptor
        entries, first, bits = map(int, descriptor)
        descriptor[2] = 16  # pydicom counts places in the type of entries: of 8 bits, modulo 256
        values = np.clip(values, first, first + (entries or 2**16) - 1)
        return apply_voi(values, held) / (2.0**bits - 1)
    with np.errstate(over="ignore"):  # of a sigmoid, far out
        low, high = apply_windowing(np.array([-FAR, FAR]), held)  # the ends of what a window gives
        return (apply_windowing(values.astype(np.float64), held) - low) / (high - low)
