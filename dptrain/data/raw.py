"""What records were before they became inputs, for whoever serves a model of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dptrain.contracts import Raw
from dptrain.data import columns, raw_pixels
from dptrain.data.columns import Category, Number


def of_table(declared: Sequence[Number | Category]) -> Raw:
    """Rows with these columns; cells that may be missing may be left out."""
    return Raw(
        code=Path(columns.__file__),
        settings=[columns.settings_of(column) for column in declared],
        example={column.name: column.example for column in declared},
        optional=frozenset(column.name for column in declared if column.missing),
    )


def of_images(
    shape: Sequence[int],
    bounds: Sequence[float] = (0.0, 1.0),
    declared: Sequence[float] | None = None,
    *,
    clip: bool = True,
) -> Raw:
    """Images that become inputs of this shape (C, H, W); `declared` is the range of pixels beyond 8 bits.

    Pixels outside of it are clipped, or refused: as the data source does.
    """
    channels, height, width = shape
    settings = {
        "shape": list(shape),
        "bounds": list(bounds),
        "declared": None if declared is None else list(declared),
        "clip": clip,
    }
    darkest = 0 if declared is None else float(declared[0])
    black = np.full((height, width, channels), darkest).tolist()
    return Raw(
        code=Path(raw_pixels.__file__),
        settings=settings,
        example={raw_pixels.COLUMN: black},
        needs=("pillow",),
    )
