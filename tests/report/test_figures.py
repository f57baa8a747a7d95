"""Files of figures: those that have data are drawn, and say what is true."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from browser import Page, needs_browser
from PIL import Image

from dptrain.contracts import Gallery, Interval, Report
from dptrain.report import figures, gallery

pytestmark = pytest.mark.run


def texts(report: Report, name: str, folder: Path) -> str:
    """The words of a figure's file."""
    figures.write_figures(report, folder)
    root = ElementTree.fromstring((folder / f"{name}.svg").read_text(encoding="utf-8"))
    return " ".join(" ".join(root.itertext()).split())


def test_all_are_drawn_for_a_full_report(report: Report, tmp_path: Path) -> None:
    paths = figures.write_figures(report, tmp_path / "figures")
    assert [path.name for path in paths] == [
        "epsilon.svg", "utility.svg", "reconstruction.svg", "class_inversion.png",
    ]  # fmt: skip
    assert paths[-1].read_bytes().startswith(b"\x89PNG")
    for path in paths[:-1]:
        svg = path.read_text(encoding="utf-8")
        names = re.findall(r' id="([^"]+)"', svg)
        assert len(names) == len(set(names))
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"url\(|@import|https?:|var\(", svg.replace("http://www.w3.org/2000/svg", ""))
        assert sum(tag in svg for tag in ("<path", "<circle", "<text", "<title", "<desc")) == 5, "blank"
    assert paths[-1].stat().st_size > 5000


def test_those_without_data_are_skipped(bare: Report, tmp_path: Path) -> None:
    assert [path.name for path in figures.write_figures(bare, tmp_path)] == ["utility.svg"]


def test_titles_state_the_finding(report: Report, tmp_path: Path) -> None:
    assert "600 steps spend ε = 3.00 at δ = 1e-05, per record" in texts(report, "epsilon", tmp_path)
    assert "Test accuracy 87.3 %; of the control model 95.1 %" in texts(report, "utility", tmp_path)
    text = texts(report, "reconstruction", tmp_path)
    assert "Best attack on single records: 29.3 %; no attack's true rate can exceed 41.1 %" in text
    assert "no test identifies more than 5.78 % of the members" in text
    assert "class inversion" not in text


def test_a_void_guarantee_draws_no_bound(void: Report, tmp_path: Path) -> None:
    text = texts(void, "reconstruction", tmp_path)
    assert "VOID" in text
    assert "bounds nothing" in text
    assert "impossible" not in text
    assert "41.1" not in text
    assert "VOID" in texts(void, "epsilon", tmp_path)
    assert "3.00" not in texts(void, "epsilon", tmp_path)


def test_a_broken_bound_is_the_finding(report: Report, tmp_path: Path) -> None:
    broken = dataclasses.replace(report.leakage[2], value=Interval(value=0.9, low=0.8, high=0.95))
    assert "exceeds its bound" in texts(
        dataclasses.replace(report, leakage=(broken,)), "reconstruction", tmp_path
    )


@pytest.mark.parametrize("part", ["both", "attacks", "curve"])
def test_reconstruction_in_all_its_forms(report: Report, part: str, tmp_path: Path) -> None:
    if part == "attacks":
        report = dataclasses.replace(report, tradeoff=())
    if part == "curve":
        report = dataclasses.replace(report, leakage=())
    figures.write_figures(report, tmp_path)
    svg = (tmp_path / "reconstruction.svg").read_text(encoding="utf-8")
    assert svg.count("<desc ") == (2 if part == "both" else 1)


def test_rgb_images_many_classes_and_no_twin(report: Report, rgb_gallery: Gallery, tmp_path: Path) -> None:
    assert rgb_gallery.mean.shape == (6, 3, 16, 16)
    wide = dataclasses.replace(
        rgb_gallery,
        classes=rgb_gallery.classes * 3,
        control=None,
        **{
            name: getattr(rgb_gallery, name).repeat(3, 1, 1, 1)
            for name in ("mean", "released", "nearest_member")
        },
    )
    sheet = gallery.sheet(wide)
    assert len(sheet.images) == 3 * gallery.LARGEST
    text = " ".join(words for _, words, _ in sheet.words)
    assert "6 more classes are not shown" in text
    assert "Confidential" in text
    figures.write_figures(dataclasses.replace(report, gallery=wide), tmp_path)
    with Image.open(tmp_path / "class_inversion.png") as drawn:
        assert drawn.size == sheet.size
        assert len(drawn.getcolors(2**20) or ()) > 1000, "no colour"


def test_utility_without_steps_or_twin(bare: Report, tmp_path: Path) -> None:
    text = texts(bare, "utility", tmp_path)
    assert "after training" in text
    assert "twin" not in text


@needs_browser
@pytest.mark.parametrize("name", ["epsilon", "utility", "reconstruction"])
def test_a_file_shows_all_its_words_apart(page: Page, report: Report, tmp_path: Path, name: str) -> None:
    figures.write_figures(report, tmp_path)
    page.open((tmp_path / f"{name}.svg").as_uri())
    boxes = page.run(
        "[...document.querySelectorAll('text')].map(e => e.getBoundingClientRect()).map(b => "
        "[b.left, b.top, b.right, b.bottom])"
    )
    width, height = page.run("['width', 'height'].map(n => Number(document.documentElement.getAttribute(n)))")
    assert all(a >= 0 and b >= 0 and c <= width + 2 and d <= height + 2 for a, b, c, d in boxes)
    for i, (a, b, c, d) in enumerate(boxes):
        for e, f, g, h in boxes[:i]:
            assert min(c, g) - max(a, e) < 1 or min(d, h) - max(b, f) < 5
