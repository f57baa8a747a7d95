"""The comparison page and its table: verdict first, nothing claimed too much, and fit for every reader."""

from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import rich.console
from browser import Page, needs_browser
from comparisons import write_run, write_sweep
from outline import Outline

from dptrain.comparison import choose
from dptrain.comparison.compare import compare
from dptrain.comparison.gather import Selection
from dptrain.contracts.rounding import rounded_up
from dptrain.report.comparison import axes, figures, tables
from dptrain.report.comparison import sentences as said
from dptrain.report.comparison.console import show
from dptrain.report.comparison.page import TITLES, as_html, as_json
from dptrain.report.comparison.points import Comparison, Missing
from dptrain.report.figure import style
from dptrain.storage import write_text

pytestmark = pytest.mark.run

HOSTILE = "<script>document.title = 'run'</script>\"'&"
LIMITS = ("accuracy>=.8", "membership.bound<=.2", "leakage.membership_loss.auc.high<=.62")


def compared(folder: Path, *limits: str) -> Comparison:
    found = compare(
        Selection(folders=(folder,)), confidence=0.95, command=f"python -m dptrain.cli.compare {folder}"
    )
    return replace(found, answer=choose.choose(choose.parse(limits, found), found)) if limits else found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Five epsilons under three seeds, held against limits."""
    return compared(write_sweep(tmp_path_factory.mktemp("sweep")), *LIMITS)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two series, one seed each; one point void, one not private, one run missing."""
    folder = tmp_path_factory.mktemp("mixed")
    for width in (16, 64):
        for epsilon in (1.0, 4.0):
            write_run(
                folder / f"{width}-{epsilon}",
                epsilon=epsilon,
                accuracy=0.7 + width / 500 + epsilon / 50,
                config={"model": {"channels": [width]}},
            )
    write_run(folder / "plain", epsilon=math.inf, accuracy=0.95, twin=None)
    write_run(
        folder / "void",
        epsilon=2.0,
        config={"deterministic": True},
        guarantee={"void_reason": "the noise was drawn from a public seed"},
    )
    (write_run(folder / "lost", seed=7) / "report.json").unlink()
    return compared(folder)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """One epsilon, three sizes of model, no attacks."""
    folder = tmp_path_factory.mktemp("sizes")
    for width in (8, 32, 128):
        for seed in (1, 2, 3):
            write_run(
                folder / f"{width}-{seed}",
                seed=seed,
                accuracy=0.6 + width / 1000 + seed / 100,
                config={"model": {"channels": [width]}},
                attacks=width != 8,
            )
    return compared(folder)


@pytest.fixture(params=["sweep", "mixed", "sizes"])
def any_comparison(request: pytest.FixtureRequest) -> Comparison:
    found: Comparison = request.getfixturevalue(request.param)
    return found


def words_of(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").replace("`", "").replace("**", "").split())


# ---------------------------------------------------------------------- what is said


def test_the_verdict_comes_first(sweep):
    page = as_html(sweep)
    places = [page.index(f'<h2 id="{name}"') for name in TITLES if name != "guards"]  # of a service
    assert places == sorted(places)
    assert '<h2 id="guards"' not in page
    assert next(iter(TITLES)) == "verdict"
    text = Outline(page).text
    assert text.index("ε = 2 meets every limit") < text.index("What privacy costs")
    assert "ε = 4" in sweep.answer.sentence


def test_every_number_of_the_tables_is_on_the_page(any_comparison):
    text = Outline(as_html(any_comparison)).text
    found = [tables.utility, tables.neighbours, tables.leakage, tables.guarantees, tables.missing]
    for table in found:
        for row in table(any_comparison).rows:
            for cell in row:
                assert words_of(cell) in text
    cost = words_of(said.composed(any_comparison))
    assert cost in text
    assert any_comparison.command in text


def test_every_measured_number_has_an_interval_or_says_why_not(any_comparison):
    for table, columns in ((tables.utility, (1, 2, 3, 4)), (tables.leakage, (2, 4))):
        for row in table(any_comparison).rows:
            for column in columns:
                assert "[" in row[column] or row[column] in ("none", ""), row


def test_a_single_seed_is_never_a_claim(mixed):
    page = Outline(as_html(mixed)).text
    assert "Fewer than 3 seeds: ε = 1" in page
    assert "no interval: 1 seed" in page
    assert "too few pairs: 1" in page
    assert {row[2].split(" ")[0] for row in tables.neighbours(mixed).rows} == {"none"}


def test_a_void_guarantee_has_no_bound_and_no_place_in_a_figure(mixed):
    page = Outline(as_html(mixed)).text
    assert page.index("VOID: ε = 2 (void)") < page.index("No limits were given")
    (row,) = [row for row in tables.guarantees(mixed).rows if "(void)" in row[0]]
    assert (row[1], row[4]) == ("void", "void")
    bounds = {row[5] for row in tables.leakage(mixed).rows if "(void)" in row[1]}
    assert bounds == {"void"}
    drawn = [figures.utility(mixed), *figures.leakage(mixed), figures.frontier(mixed)]
    assert not any("void" in figure.svg() for figure in drawn)


def test_all_void_is_told_without_figures(tmp_path):
    write_run(tmp_path / "a", guarantee={"void_reason": "a public seed"})
    page = Outline(as_html(compared(tmp_path)))
    assert page.all("figure") == []
    assert "there is no frontier" in page.text


def test_the_search_is_told_three_ways(sweep):
    text = Outline(as_html(sweep)).text
    assert "ε ≤ 8.00" in text
    assert f"All {sweep.cost.models} modelsε = {rounded_up(sweep.cost.together, 2)}" in text
    assert "The best one, selectedno number" in text


def test_what_is_missing_is_listed(mixed):
    text = Outline(as_html(mixed)).text
    assert "1 of the runs is missing" in text
    assert text.index("Missing runs") < text.index("unfinished: it was stopped")


def test_the_json_is_plain(mixed):
    plain = json.loads(json.dumps(as_json(mixed), allow_nan=False))
    labels = [point["label"] for point in plain["points"]]
    assert "not private, channels = [16]" in labels
    assert plain["points"][labels.index("not private, channels = [16]")]["epsilon"] is None
    assert plain["points"][0]["accuracy"]["interval"] is None
    assert plain["missing"] == [{"name": "lost", "why": plain["missing"][0]["why"]}]


@pytest.mark.parametrize("width", [80, 130])
def test_the_console_shows_the_same(any_comparison, width):
    out = io.StringIO()
    show(any_comparison, rich.console.Console(file=out, width=width, highlight=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(out.getvalue().split())
    for title in ("UTILITY", "NEIGHBOURS", "GUARANTEE", "SEARCH"):
        assert title in text
    for point in any_comparison.points:
        assert f"{point.accuracy.centre:.3f}" in text
    assert ("LIMITS" in text) == (any_comparison.answer is not None)
    assert ("MISSING" in text) == bool(any_comparison.missing)


# ---------------------------------------------------------------------- figures


def test_the_frontier_marks_what_no_other_point_beats(mixed):
    svg = figures.frontier(mixed).svg()
    assert svg.count('circle class="mark second"') == sum(point.pareto for point in mixed.points) == 2
    assert svg.count('circle class="mark hollow"') == 2


def test_bounds_are_one_curve_whatever_the_series(mixed):
    for figure in figures.leakage(mixed):
        bound = re.findall(r'class="line bound" d="(.*?)"', figure.svg())
        assert len(bound) == (0 if "No theorem" in figure.caption else 1)
        for path in bound:
            places = [float(step.split()[0]) for step in re.split("[ML]", path)[1:]]
            assert places == sorted(set(places))


def test_without_several_epsilons_points_stand_side_by_side(sizes):
    at = axes.places(sizes.points)
    assert (at.name, [text for _, text in at.ticks]) == ("channels", ["[8]", "[32]", "[128]"])
    assert not at.joined
    assert "line release" not in figures.utility(sizes).svg()


def test_figures_take_their_colours_from_the_style_sheets(any_comparison):
    sheets = style("page") + style("comparison")
    classes = {name for rule in re.findall(r"svg [^{]*", sheets) for name in re.findall(r"\.([a-z]+)", rule)}
    for svg in re.findall(r"<svg.*?</svg>", as_html(any_comparison), flags=re.S):
        for element in ElementTree.fromstring(svg).iter():
            assert not {"fill", "stroke", "style"} & set(element.attrib)
            assert set(element.get("class", "").split()) <= classes | {"name", "label", "bound"}


# ---------------------------------------------------------------------- the page itself


def test_it_is_one_file_that_runs_nothing(any_comparison):
    page = as_html(any_comparison)
    tags = {tag for tag, _ in Outline(page).found}
    assert tags.isdisjoint({"script", "link", "img", "image", "iframe", "object", "use", "form", "base"})
    assert not re.search(r"url\(|@import|https?:", page.replace("http://www.w3.org/2000/svg", ""))


def test_it_is_built_for_everyone(any_comparison):
    page = Outline(as_html(any_comparison))
    assert page.all("html")[0]["lang"] == "en"
    assert [tag for tag, _ in page.found if tag in ("header", "nav", "main", "footer")] == [
        "header", "nav", "main", "footer",
    ]  # fmt: skip
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    names = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(names) == len(set(names))
    for tag, attributes in page.found:
        assert all(name in names for name in str(attributes.get("aria-labelledby") or "").split())
        if tag == "a":
            assert str(attributes["href"])[1:] in names
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert len(page.all("caption")) == len(page.all("table")) >= 3
    assert len(page.all("svg")) == len(page.all("desc")) == len(page.all("figcaption")) >= 2


def test_nothing_from_outside_becomes_markup(mixed):
    points = tuple(
        replace(point, label=f"{HOSTILE}{number}", series=HOSTILE, sentence=HOSTILE, reproduce=(HOSTILE,))
        for number, point in enumerate(mixed.points)
    )
    hostile = replace(
        mixed, title=HOSTILE, points=points, command=HOSTILE, missing=(Missing(name=HOSTILE, why=HOSTILE),)
    )
    page = Outline(as_html(hostile))
    assert page.all("script") == []
    assert page.text.count(HOSTILE) > 10


# ---------------------------------------------------------------------- in a real browser

BOXES = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const all = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].map(text => {
    const own = text.getBoundingClientRect();
    return {words: text.textContent, figure: svg.querySelector('title').id, width: all.width,
            box: [own.left - all.left, own.top - all.top, own.right - all.left, own.bottom - all.top]};
  });
})"""


@pytest.fixture
def at(any_comparison: Comparison, tmp_path: Path) -> str:
    """Address of the page."""
    write_text(as_html(any_comparison), tmp_path / "comparison.html")
    return (tmp_path / "comparison.html").as_uri()


@needs_browser
@pytest.mark.parametrize(("scheme", "media"), [("light", ""), ("dark", ""), ("dark", "print")])
def test_text_can_be_read_on_screen_and_on_paper(page: Page, at: str, scheme: str, media: str) -> None:
    page.open(at, scheme=scheme, media=media)
    assert page.faint_text() == []
    assert page.requests() == [at]
    assert page.complaints() == []
    background = page.run("getComputedStyle(document.body).backgroundColor")
    bright = min(map(int, re.findall(r"\d+", background))) > 128
    assert bright == (scheme == "light" or media == "print")


@needs_browser
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_the_page_does_not_scroll_sideways(page: Page, at: str, width: int) -> None:
    page.open(at, width=width, height=800)
    assert page.run("document.documentElement.scrollWidth") <= width


@needs_browser
def test_figures_keep_their_words_apart_and_within(page: Page, at: str) -> None:
    page.open(at)
    found: list[dict[str, Any]] = page.run(BOXES)
    assert found
    for text in found:
        assert text["box"][0] >= -2, text
        assert text["box"][2] <= text["width"] + 14, text
    for one, other in ((a, b) for i, a in enumerate(found) for b in found[:i] if a["figure"] == b["figure"]):
        (a, b, c, d), (e, f, g, h) = one["box"], other["box"]
        assert min(c, g) - max(a, e) < 1 or min(d, h) - max(b, f) < 5, (one, other)


def test_a_title_that_reads_like_markup_is_told_as_it_is(any_comparison, capsys):
    odd = replace(any_comparison, title="[/a] [red] :smile: b")
    out = io.StringIO()
    show(odd)
    show(odd, rich.console.Console(file=out, width=120))
    assert odd.title in capsys.readouterr().out
    assert odd.title in out.getvalue()
