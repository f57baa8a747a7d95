"""The gallery: images of class inversions beside what they must be compared with, in a page and as PNG."""

from __future__ import annotations

import io
import textwrap
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dptrain.contracts import Gallery
from dptrain.report.blocks import ImageTable
from dptrain.storage import whole

LARGEST = 12  # rows; more would be too small to see
SIDE, SPACE = 176, 12  # of an image in the file, and between two, in pixels
NAMES, HEAD, FOOT = 216, 124, 88  # room for names to the left, for titles above, for a caption below
TEXT, LINE = 20, 24  # height of letters and of lines
INK, RELEASE, CONTROL = "#333333", "#0a659c", "#a84400"
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")  # that know more than Latin letters
TITLE = "What the release gives away of each class"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What the file shows: images and words, each with its upper left corner; words with their colour."""

    size: tuple[int, int]
    images: tuple[tuple[tuple[int, int], Image.Image], ...]
    words: tuple[tuple[tuple[int, int], str, str], ...]


def image_table(gallery: Gallery) -> ImageTable:
    """One row a class, one column a kind of image; images (C, H, W) travel in the page as PNG."""
    columns = {
        "mean of held-out records": gallery.mean,
        "inverted from the release": gallery.released,
        "inverted from the control model, not private": gallery.control,
        "nearest training record": gallery.nearest_member,
    }
    shown = {name: images for name, images in columns.items() if images is not None}
    return ImageTable(
        heads=tuple(shown),
        rows=tuple(
            (label, tuple(_source(images[row], gallery.bounds) for images in shown.values()))
            for row, label in enumerate(gallery.classes[:LARGEST])
        ),
        left_out=max(0, len(gallery.classes) - LARGEST),
        only="html",
    )


def sheet(gallery: Gallery) -> Sheet:
    """The same for a file, whose last words say that it is confidential."""
    columns = [("mean image", gallery.mean, INK), ("from the release", gallery.released, RELEASE)]
    if gallery.control is not None:
        columns.append(("from the control\nmodel (not private)", gallery.control, CONTROL))
    columns.append(("nearest\ntraining record", gallery.nearest_member, INK))
    rows = min(len(gallery.classes), LARGEST)
    step, bottom = SIDE + SPACE, HEAD + (SIDE + SPACE) * rows
    images, words = [], [((SPACE, 16), TITLE, INK)]
    for column, (title, found, colour) in enumerate(columns):
        x = NAMES + step * column
        words.append(((x, HEAD - 8 - LINE * (1 + title.count("\n"))), title, colour))
        for row in range(rows):
            image = as_image(found[row], gallery.bounds).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            images.append(((x, HEAD + step * row), image))
    for row in range(rows):
        name = textwrap.wrap(gallery.classes[row], 18)[:3]
        y = HEAD + step * row + (SIDE - LINE * len(name)) // 2
        words.append(((SPACE, y), "\n".join(name), INK))
    words.append(((SPACE, bottom + 8), "Confidential: the last column shows training records.", CONTROL))
    if (more := len(gallery.classes) - rows) > 0:
        words.append(((SPACE, bottom + 8 + LINE), f"{more} more classes are not shown.", CONTROL))
    return Sheet(size=(NAMES + step * len(columns), bottom + FOOT), images=tuple(images), words=tuple(words))


def write_gallery(gallery: Gallery, path: Path) -> None:
    """Write the sheet as PNG, whole or not at all."""
    content = sheet(gallery)
    canvas = Image.new("RGB", content.size, "white")
    draw, font = ImageDraw.Draw(canvas), _font()
    for (x, y), image in content.images:
        canvas.paste(image, (x, y))
        draw.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), outline="#DDDDDD")
    for place, words, colour in content.words:
        draw.multiline_text(place, words, fill=colour, font=font, spacing=LINE - TEXT)
    with whole(path) as draft:
        canvas.save(draft, "PNG", optimize=True)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of this system, or else Pillow's own, which knows no accents."""
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, TEXT - 2)
    return ImageFont.load_default(TEXT)


def as_image(pixels: Tensor, bounds: tuple[float, float]) -> Image.Image:
    """An image (C, H, W) in bounds as grey levels, or, of three channels, in colour."""
    low, high = bounds
    scaled = ((pixels.detach().cpu().float() - low) / (high - low)).clamp(0, 1)
    shown = scaled.permute(1, 2, 0) if len(scaled) == 3 else scaled.mean(0)
    return Image.fromarray((255 * shown.numpy()).round().astype("uint8"))


def _source(pixels: Tensor, bounds: tuple[float, float]) -> str:
    """An image as an address that holds it whole."""
    file = io.BytesIO()
    as_image(pixels, bounds).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
