"""From the body of a request to what the model takes: shapes, types, bounds and columns as declared."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dptrain.contracts import Form, Forms, Inputs, Raw
from dptrain.serving.body import parse_json
from dptrain.serving.guard import Refused

IMAGE = "image"  # the column of raw images
PNG = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 8_000_000  # of the images of one request together
TOLD = 3  # problems of one request that are told


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads requests for a model that takes inputs of these forms, or raw records."""

    forms: Forms
    raw: Raw | None
    most: int  # records in a request

    def read(self, body: bytes, kind: str) -> Inputs:
        """The inputs (N, ...) in a body of this media type; raises Refused (400, 413, 415, 422)."""
        if kind == "image/png":
            return self._image(body)
        if kind != "application/json":
            raise Refused(415, "type", "This media type is not read; send application/json or image/png.")
        found = parse_json(body)
        if len(found) != 1 or not found.keys() <= {"inputs", "records"}:
            raise Refused(
                422, "schema", 'Give exactly one of "inputs" (arrays as the model takes them) and "records".'
            )
        return self._arrays(found["inputs"]) if "inputs" in found else self._records(found["records"])

    def _arrays(self, given: Any) -> Inputs:
        if not isinstance(self.forms, Mapping):
            return self._array(given, self.forms, "inputs")
        if not isinstance(given, dict) or given.keys() != self.forms.keys():
            raise Refused(422, "schema", f'"inputs" must have the names {", ".join(self.forms)}.')
        named = {name: self._array(given[name], form, name) for name, form in self.forms.items()}
        if len({len(each) for each in named.values()}) != 1:
            raise Refused(422, "schema", "All named inputs must hold the same number of records.")
        return named

    def _array(self, given: Any, form: Form, name: str) -> Tensor:
        """An array in the declared shape, type and bounds."""
        wanted = f"an array of shape (N, {', '.join(map(str, form.shape))})" if form.shape else "an array (N)"
        if not isinstance(given, list):
            raise Refused(422, "schema", f'"{name}" must be {wanted}.')
        self._check_count(len(given))
        # Before NumPy sees any of it, which makes every cell as long as the longest text.
        if not _holds(given, (len(given), *form.shape), {int, float}):
            raise Refused(422, "schema", f'"{name}" must be {wanted}, of numbers only.')
        kind = np.int64 if form.whole else np.float32
        low, high = (kind(bound) for bound in form.bounds)
        outside = Refused(422, "bounds", f'"{name}" holds values outside {low:g} to {high:g}.')
        try:
            held = np.array(given, dtype=np.float64)
        except OverflowError:
            raise outside from None
        if form.whole and not (held == np.rint(held)).all():  # 1.0 is whole, as JSON Schema has it
            raise Refused(422, "schema", f'"{name}" must be {wanted}, of whole numbers only.')
        with np.errstate(over="ignore"):  # beyond float32 it is infinite, and so out of bounds
            made = held if form.whole else held.astype(kind)
        if not (np.isfinite(made).all() and made.min() >= low and made.max() <= high):
            raise outside
        return torch.from_numpy(made.astype(kind))

    def _records(self, given: Any) -> Tensor:
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise Refused(422, "schema", '"records" must be a list of objects, one a record.')
        return self._raw(given)

    def _image(self, body: bytes) -> Tensor:
        if not body.startswith(PNG):
            raise Refused(400, "type", "The body is no PNG file; send one, or JSON.")
        return self._raw([{IMAGE: body}])

    def _raw(self, rows: list[dict[str, Any]]) -> Tensor:
        """Raw records as inputs, by the code that goes with the data."""
        if self.raw is None:
            raise Refused(422, "schema", 'This model takes no raw records; send "inputs".')
        self._check_count(len(rows))
        known = set(self.raw.example)
        if any(row.keys() - known for row in rows):
            raise Refused(422, "schema", f"A record has other columns than {_listed(known)}.")
        if missing := {name for row in rows for name in known - self.raw.optional - row.keys()}:
            raise Refused(422, "schema", f"A record lacks {_listed(missing)}.")
        images = known == {IMAGE}
        if not all(_is_cell(cell, nested=images) for row in rows for cell in row.values()):
            raise Refused(422, "schema", "A cell is of a kind that its column does not take.")
        try:
            made, problems = self._code(pd.DataFrame(rows), self.raw.settings)
        except Exception:  # whatever decoders and parsers raise on what nobody has thought of
            raise Refused(422, "schema", "A cell is of a kind that its column does not take.") from None
        if problems:
            more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
            said = "; ".join(" ".join(each.split())[:200] for each in problems[:TOLD])
            raise Refused(422, "schema", f"{said}{more}.")
        return torch.from_numpy(made)

    def _check_count(self, records: int) -> None:
        if not records:
            raise Refused(422, "schema", "No record is given; give at least one.")
        if records > self.most:
            raise Refused(
                413, "size", f"{records} records are more than {self.most}; ask in smaller batches."
            )

    @cached_property
    def _code(self) -> Callable[[pd.DataFrame, Any], tuple[np.ndarray, list[str]]]:
        """The function that reads raw records."""
        assert self.raw is not None
        name = f"dptrain_served_{self.raw.code.stem}"
        spec = importlib.util.spec_from_file_location(name, self.raw.code)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their own module up
        spec.loader.exec_module(module)
        if hasattr(module, "MOST_PIXELS"):
            vars(module)["MOST_PIXELS"] = MOST_PIXELS
        read: Callable[[pd.DataFrame, Any], tuple[np.ndarray, list[str]]] = module.read
        return read


def _holds(value: Any, shape: tuple[int, ...], kinds: set[type]) -> bool:
    """Whether nested lists have this shape and hold nothing but numbers of these kinds, no truth values."""
    if len(shape) == 1:
        return isinstance(value, list) and len(value) == shape[0] and set(map(type, value)) <= kinds
    return (
        isinstance(value, list)
        and len(value) == shape[0]
        and all(_holds(each, shape[1:], kinds) for each in value)
    )


def _is_cell(value: Any, *, nested: bool) -> bool:
    """Whether this is a text, a number or nothing; `nested`: or rows of pixels, each a list of channels."""
    if isinstance(value, str | bytes | int | float | None):
        return True
    rows = [value]
    for _ in range(3 if nested else 0):
        if not all(isinstance(each, list) for each in rows):
            return False
        rows = [inner for each in rows for inner in each]
        if set(map(type, rows)) <= {int, float}:
            return True
    return False


def _listed(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
