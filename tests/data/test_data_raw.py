"""Raw values of a served model become the inputs that training had of them, by code that travels alone."""

from __future__ import annotations

import ast
import base64
import io
import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dptrain.contracts import DataError, Raw
from dptrain.data import columns
from dptrain.data import raw_pixels as pixels
from dptrain.data.declare import parse_schema
from dptrain.data.image_folder import ImageFolder
from dptrain.data.raw import of_images, of_table

SCHEMA = parse_schema(
    columns={
        "age": {"kind": "number", "bounds": [18, 90]},
        "income": {"kind": "number", "bounds": [0, 5000], "clip": True, "missing": True},
        "joined": {"kind": "date", "bounds": ["2000-01-01", "2029-12-31"], "format": "%d.%m.%Y"},
        "rooms": {"kind": "category", "categories": [1, 2, 3]},
        "region": {"kind": "category", "categories": ["north", "south"], "missing": True},
    },
    target="late",
    classes=["no", "yes"],
    sensitive=[],
    group=None,
    split=None,
    ignored=[],
)
RAW = of_table(SCHEMA.columns)


def plain(raw: Raw) -> Any:
    """As they are read again from a file."""
    return json.loads(json.dumps(raw.settings))


@hypothesis.settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "age": st.integers(10, 95) | st.floats(18, 90) | st.just("old"),
                "income": st.none() | st.integers(-10, 6000),
                "joined": st.dates().map(lambda day: day.strftime("%d.%m.%Y")) | st.none(),
                "rooms": st.sampled_from([1, 2.0, 3, 4]),
                "region": st.sampled_from(["north", "south", "west", None]),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_row_is_read_as_the_line_of_a_csv_was(rows: list[dict[str, Any]]) -> None:
    """What training takes is taken, as the same numbers; what it refuses is refused, cell by cell."""
    made, problems = columns.read(pd.DataFrame(rows), plain(RAW))
    text = pd.DataFrame(rows, dtype=object).map(lambda cell: None if cell is None else str(cell))
    text["late"] = "no"
    try:
        trained = SCHEMA.encode(text, where="a table").inputs
    except DataError as error:
        listed = str(error).splitlines()[1:-1]
        assert sorted(each.strip() for each in listed) == sorted(problems)
    else:
        assert problems == []
        torch.testing.assert_close(torch.from_numpy(made), trained, rtol=0, atol=0)


def test_a_column_that_may_be_missing_may_be_left_out() -> None:
    assert RAW.optional == {"income", "region"}
    row = {name: cell for name, cell in RAW.example.items() if name not in RAW.optional}
    made, problems = columns.read(pd.DataFrame([row]), plain(RAW))
    assert problems == []
    assert made[0].tolist()[1:3] == [0.5, 1.0]


@pytest.mark.parametrize("raw", [RAW, of_images((3, 4, 5)), of_images((1, 4, 5), (-1.0, 1.0), (0, 4095))])
def test_the_example_is_made_from_declarations_and_is_taken(raw: Raw) -> None:
    module = columns if raw is RAW else pixels
    table = pd.DataFrame([json.loads(json.dumps(dict(raw.example)))])
    made, problems = module.read(table, plain(raw))
    assert (len(made), problems) == (1, [])


@pytest.mark.parametrize("module", [columns, pixels])
def test_the_code_that_travels_imports_nothing_of_this_package(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("dptrain")]


@pytest.mark.parametrize(("mode", "deep"), [("grayscale", False), ("rgb", False), ("grayscale", True)])
def test_an_image_file_is_read_as_training_read_it(mode: str, deep: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            if deep:
                image = Image.fromarray(rng.integers(0, 4096, (9, 7), dtype=np.uint16))
            else:
                image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
            image.save(folder / "x.png")
    declared = [0, 4095] if deep else None
    source = ImageFolder(
        root=str(tmp_path), size=(4, 5), mean=(0.5,) * 1, std=(0.5,) * 1, mode="grayscale", range=declared
    )
    if mode == "rgb":
        source = ImageFolder(root=str(tmp_path), size=(4, 5), mean=(0.5,) * 3, std=(0.5,) * 3, mode="rgb")
    splits = source.load(torch.Generator().manual_seed(1))
    assert splits.raw is not None
    held = [(tmp_path / "test" / name / "x.png").read_bytes() for name in ("a", "b")]
    for cells in (held, [base64.b64encode(each).decode() for each in held]):
        made, problems = pixels.read(pd.DataFrame({"image": cells}), plain(splits.raw))
        assert problems == []
        torch.testing.assert_close(torch.from_numpy(made), splits.test.inputs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dtype", "declared", "white"),
    [("uint8", None, 255), ("uint8", (0, 4095), 255), ("int64", None, 255),
     ("uint16", (0, 4095), 4095), ("uint16", None, 65535), ("float64", None, 1.0),
     ("float64", (0, 4095), 4095.0)],
)  # fmt: skip
def test_pixels_are_scaled_by_what_is_declared_of_their_kind(
    dtype: str, declared: tuple[float, float] | None, white: float
) -> None:
    raw = of_images((1, 2, 2), declared=declared)
    array = np.array([[0, white], [white, 0]], dtype=dtype)
    for cell in (array, array[..., None]):
        made, problems = pixels.read(pd.DataFrame({"image": [cell]}), plain(raw))
        assert problems == []
        assert made.tolist() == [[[[0, 1], [1, 0]]]]


def test_pixels_outside_the_declared_range_are_clipped_where_training_clipped_them() -> None:
    outside = pd.DataFrame({"image": [np.array([[-9.0, 4095], [5000, 0]])]})
    made, problems = pixels.read(outside, plain(of_images((1, 2, 2), declared=(0, 4095))))
    assert problems == []
    assert made.tolist() == [[[[0, 1], [1, 0]]]]
    _, problems = pixels.read(outside, plain(of_images((1, 2, 2), declared=(0, 4095), clip=False)))
    assert problems == ["row 0: holds pixels outside 0 ... 4095"]


@pytest.mark.parametrize(
    ("pixel", "declared", "says"),
    [(0.5, None, "floating-point pixels, whose range is unknown"), (np.nan, (0, 4095), "are no numbers")],
)
def test_a_file_that_training_refuses_is_refused(
    pixel: float, declared: tuple[float, float] | None, says: str
) -> None:
    tiff = io.BytesIO()
    Image.fromarray(np.full((2, 2), pixel, np.float32)).save(tiff, "TIFF")
    _, problems = pixels.read(
        pd.DataFrame({"image": [tiff.getvalue()]}), plain(of_images((1, 2, 2), declared=declared))
    )
    assert says in problems[0]


@pytest.mark.parametrize("value", [0, 200, 4095])
def test_whole_numbers_of_json_are_refused_where_they_may_be_of_two_depths(value: int) -> None:
    cells = [np.full((2, 2), value).tolist(), np.full((2, 2), np.nan).tolist()]
    _, problems = pixels.read(pd.DataFrame({"image": cells}), plain(of_images((1, 2, 2), declared=(0, 4095))))
    assert "may be of 8 bits or deeper; give an image file" in problems[0]
    assert "are no numbers" in problems[1]


def test_what_is_no_image_is_told_by_its_row_and_nothing_of_it_is_shown() -> None:
    png = io.BytesIO()
    Image.new("L", (2, 2)).save(png, "PNG")
    several = io.BytesIO()
    Image.new("L", (2, 2)).save(several, "TIFF", save_all=True, append_images=[Image.new("L", (2, 2))])
    cells = [
        png.getvalue(),
        b"secret",
        "secret!",
        [[0.5, 256], [0, 0]],
        [[0, 1]],
        None,
        "c2VjcmV0",
        several.getvalue(),
    ]
    _, problems = pixels.read(pd.DataFrame({"image": cells}), plain(of_images((1, 2, 2))))
    assert [each.partition(":")[0] for each in problems] == [f"row {row}" for row in range(1, 8)]
    assert "secret" not in " ".join(problems)
    assert problems[0] == problems[5].replace("6", "1") == "row 1: is no image file in a known format"
    assert "outside 0 ... 1" in problems[2]
    assert "(2, 2, 1) (height, width, channels)" in problems[3]
