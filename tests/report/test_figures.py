"""Figures: those that have data are drawn, and say what is true."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dptrain.contracts import Gallery, Interval, Report
from dptrain.report import figures


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return " ".join(item.get_text() for item in figure.findobj(Text)).replace("\n", " ")


def test_all_are_drawn_for_a_full_report(report: Report, tmp_path: Path) -> None:
    paths = figures.write_figures(report, tmp_path / "figures")
    assert [path.name for path in paths] == [
        "epsilon.png", "utility.png", "reconstruction.png", "class_inversion.png",
    ]  # fmt: skip
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_those_without_data_are_skipped(bare: Report, tmp_path: Path) -> None:
    assert [path.name for path in figures.write_figures(bare, tmp_path)] == ["utility.png"]


def test_pyplot_is_not_touched() -> None:
    assert "pyplot" not in Path(figures.__file__).read_text(encoding="utf-8")


def test_titles_state_the_finding(report: Report) -> None:
    assert "600 steps spend ε = 3.00 at δ = 1e-05, per record" in texts(figures.epsilon(report))
    assert "Test accuracy 87.3 %, 7.8 points below the non-private twin" in texts(figures.utility(report))
    text = texts(figures.reconstruction(report))
    assert "Best attack on single records: 29.3 % no attack's true rate can exceed 41.1 %" in text
    assert "no test finds more than 5.78 % of the members" in text
    assert "class inversion" not in text


def test_a_void_guarantee_draws_no_bound(void: Report) -> None:
    text = texts(figures.reconstruction(void))
    assert "VOID" in text
    assert "bounds nothing" in text
    assert "impossible" not in text
    assert "41.1" not in text
    assert "VOID" in texts(figures.epsilon(void))
    assert "3.00" not in texts(figures.epsilon(void))


def test_a_broken_bound_is_the_finding(report: Report) -> None:
    broken = dataclasses.replace(report.leakage[2], value=Interval(value=0.9, low=0.8, high=0.95))
    assert "exceeds its bound" in texts(
        figures.reconstruction(dataclasses.replace(report, leakage=(broken,)))
    )


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("part", ["both", "attacks", "curve"])
def test_reconstruction_in_all_its_forms(report: Report, log: bool, part: str) -> None:
    if part == "attacks":
        report = dataclasses.replace(report, tradeoff=())
    if part == "curve":
        report = dataclasses.replace(report, leakage=())
    figure = figures.reconstruction(report, log=log)
    assert len(figure.axes) == (2 if part == "both" else 1)


def test_rgb_images_many_classes_and_no_twin(report: Report, rgb_gallery: Gallery, tmp_path: Path) -> None:
    gallery = rgb_gallery
    assert gallery.mean.shape == (6, 3, 16, 16)
    wide = dataclasses.replace(
        gallery,
        classes=gallery.classes * 3,
        control=None,
        **{
            name: getattr(gallery, name).repeat(3, 1, 1, 1) for name in ("mean", "released", "nearest_member")
        },
    )
    figure = figures.class_inversion(dataclasses.replace(report, gallery=wide))
    assert len(figure.axes) == 3 * figures.LARGEST_GALLERY
    assert "6 more classes are not shown" in texts(figure)
    assert "Confidential" in texts(figure)
    figures.write_figures(dataclasses.replace(report, gallery=wide), tmp_path)


def test_utility_without_steps_or_twin(bare: Report) -> None:
    text = texts(figures.utility(bare))
    assert "after training" in text
    assert "twin" not in text
