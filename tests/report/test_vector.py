"""Figures of the page: those that have data are drawn, in the right place, and say what is true."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dptrain.contracts import Interval, Report
from dptrain.report.figure import Figure
from dptrain.report.figures import attacks, epsilon, figures, tradeoff, utility
from dptrain.report.svg import WIDTH, Panel, apart, ticks

PATH = "{http://www.w3.org/2000/svg}path"


def words(figure: Figure) -> str:
    return " ".join(ElementTree.fromstring(figure.svg()).itertext())


def lines(figure: Figure, style: str) -> list[list[tuple[float, float]]]:
    """Points of every path of this class."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", element.attrib["d"])]
        for element in ElementTree.fromstring(figure.svg()).iter(PATH)
        if element.attrib["class"] == style
    ]


def test_all_are_drawn_for_a_full_report(report: Report) -> None:
    full = dataclasses.replace(
        report, queries={"class_inversion_queries": ((100, 0.1, None), (900, 0.5, 0.7))}
    )
    assert [figure.name for figure in figures(full)] == [
        "attacks", "tradeoff", "utility", "epsilon", "queries",
    ]  # fmt: skip
    assert [figure.name for figure in figures(report)][-1] == "epsilon"


def test_those_without_data_are_skipped(bare: Report) -> None:
    assert [figure.name for figure in figures(bare)] == ["utility"]


def test_titles_and_descriptions_state_the_finding(report: Report) -> None:
    assert "600 steps spend ε = 3.00 at δ = 1e-05, per record" in words(epsilon(report))
    assert "Test accuracy is 0.873 (0.851 to 0.892)" in words(utility(report))
    assert "no attack's true rate can exceed 41.1 %" in words(attacks(report))
    assert "reconstruction from gradients, record named among 8: 0.293" in words(attacks(report))
    assert "no test identifies more than 5.78 % of the members" in words(tradeoff(report))


def test_what_is_drawn_lies_where_the_numbers_are(report: Report) -> None:
    panel = epsilon(report).panel
    (curve,) = lines(epsilon(report), "line release")
    assert len(curve) == len(report.epsilon_by_step)
    for (step, spent), (x, y) in zip(report.epsilon_by_step, curve, strict=True):
        assert x == pytest.approx(46 + (WIDTH - 60) * step / 600, abs=0.06)
        assert y == pytest.approx(panel.down(spent), abs=0.06)
    *bars, _ = lines(attacks(report), "line bound")  # the last one is the legend's
    assert [x for bar in bars for x, _ in bar] == pytest.approx([10 + 0.411 * (WIDTH - 24)] * 4, abs=0.06)


def test_a_void_guarantee_draws_no_bound(void: Report) -> None:
    assert lines(attacks(void), "line bound") == []
    assert "beyond" not in attacks(void).svg() + tradeoff(void).svg()
    for figure in (attacks(void), tradeoff(void), epsilon(void)):
        assert "0.411" not in words(figure)
        assert "3.00" not in words(figure)
    assert "VOID" in words(epsilon(void))
    assert "VOID" in words(tradeoff(void))


def test_a_broken_bound_is_the_finding(report: Report) -> None:
    broken = dataclasses.replace(report.leakage[2], value=Interval(value=0.9, low=0.8, high=0.95))
    assert "exceeds its bound" in attacks(dataclasses.replace(report, leakage=(broken,))).title


@pytest.mark.parametrize("log", [False, True])
def test_a_panel_spans_its_ends(log: bool) -> None:
    panel = Panel(x=(0.01, 100.0), y=(0.01, 100.0), log_x=log, log_y=log)
    assert (panel.across(0.01), panel.down(0.01)) == (panel.left, panel.height - panel.bottom)
    assert panel.across(100.0) == WIDTH - panel.right
    assert panel.down(100.0) == panel.top
    assert panel.across(1e9) == WIDTH - panel.right, "what lies beyond stays on the page"
    middle = 1.0 if log else 50.005
    assert panel.across(middle) == pytest.approx((panel.left + WIDTH - panel.right) / 2)


def test_ticks_are_round_and_within() -> None:
    assert ticks((0.0, 1.0), log=False) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks((1e-4, 1.0), log=True) == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1])


@given(st.lists(st.floats(min_value=-50, max_value=250), max_size=6))
def test_labels_never_overlap(wanted: list[float]) -> None:
    placed = apart(wanted, [30.0] * len(wanted), low=0.0, high=200.0)
    ordered = sorted(placed)
    assert all(later - earlier >= 30.0 - 1e-9 for earlier, later in pairwise(ordered))
    assert all(middle >= 15.0 - 1e-9 and middle <= 185.0 + 1e-9 for middle in placed)
    assert [a for _, a in sorted(zip(wanted, placed, strict=True))] == ordered
