"""Pictures of class inversions in a page, each beside what it must be compared with."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator
from html import escape

from PIL import Image
from torch import Tensor

from dptrain.contracts import Gallery
from dptrain.report.figures import LARGEST_GALLERY, pixels

# Nothing but pictures that are written into the page itself.
POLICY = "img-src data:"


def gallery_table(gallery: Gallery) -> Iterator[str]:
    """One row a class, under one heading a kind of picture; pictures (C, H, W) travel in the page as PNG."""
    columns = {
        "mean of held-out records": gallery.mean,
        "inverted from the release": gallery.released,
        "inverted from the twin, not private": gallery.control,
        "nearest training record": gallery.nearest_member,
    }
    shown = {name: images for name, images in columns.items() if images is not None}
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in shown)
    yield '<div class="scroll" role="region" aria-labelledby="gallery-caption" tabindex="0">'
    yield '<table class="pictures">'
    yield '<caption id="gallery-caption"><span>What the release gives away of each class.</span></caption>'
    yield f"<thead><tr><td></td>{heads}</tr></thead><tbody>"
    for row, label in enumerate(gallery.classes[:LARGEST_GALLERY]):
        cells = "".join(
            f"<td>{_picture(images[row], gallery.bounds, f'{label}: {name}')}</td>"
            for name, images in shown.items()
        )
        yield f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    yield "</tbody></table></div>"
    more = len(gallery.classes) - LARGEST_GALLERY
    if more > 0:
        yield f'<p class="note">{more} more classes are not shown.</p>'


def _picture(image: Tensor, bounds: tuple[float, float], alt: str) -> str:
    """An image in bounds as an element that holds it whole."""
    file = io.BytesIO()
    Image.fromarray((255 * pixels(image, *bounds)).round().astype("uint8")).save(file, "PNG", optimize=True)
    source = b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{source}" alt="{escape(alt)}">'
