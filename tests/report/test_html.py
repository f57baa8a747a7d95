"""report.html: complete, accessible, escaped, in need of nothing; and so a real browser finds it."""

from __future__ import annotations

import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import Page, needs_browser
from outline import Outline
from PIL import Image

from dptrain.contracts import Exposed, Gallery, Interval, Leakage, Report
from dptrain.report import tables
from dptrain.report.figure import style
from dptrain.report.leakage_words import readable
from dptrain.report.pages import as_html
from dptrain.report.render import marked
from dptrain.report.sections import TITLES
from dptrain.storage import write_text

pytestmark = pytest.mark.e2e

HOSTILE = "<script>document.title = 'run'</script>\"'&"
VOID_TAGS = {"meta", "br", "wbr", "img"}
BOXES = """[...document.querySelectorAll('svg')].flatMap(svg =>
  [...svg.querySelectorAll('text')].map(text => {
    const [own, all] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
    return {words: text.textContent, figure: svg.querySelector('title').textContent,
            box: [own.left - all.left, own.top - all.top, own.right - all.left, own.bottom - all.top],
            size: [all.width, all.height]};
}))"""


def queried(interface: str) -> Leakage:
    return Leakage(
        attack="membership_loss",
        metric="tpr_at_fpr_0.01",
        value=Interval(value=0.05, low=0.01, high=0.12),
        floor=0.01,
        control=Interval(value=0.4, low=0.3, high=0.5),
        bound=0.1,
        detection_limit=0.96,
        verdict="leakage detected, within the guarantee",
        trials=400,
        interface=interface,
    )


@pytest.fixture
def full(report: Report) -> Report:
    """A report with every section that there is."""
    return dataclasses.replace(
        report,
        leakage=(*report.leakage, queried("confidences"), queried("labels_only"), queried("top_k")),
        queries={
            "class_inversion_queries": ((100, 0.1, 0.2), (1000, 0.4, 0.6), (10_000, 0.7, 0.9)),
            "class_inversion_labels": ((200, 0.1, None), (9000, 0.3, None)),
        },
        exposed=(Exposed(record="train 17", label=1, score={"a": 4.2}, percentile={"a": 0.98}),),
    )


@pytest.fixture(params=["full", "bare", "void"])
def any_report(request: pytest.FixtureRequest) -> Report:
    report: Report = request.getfixturevalue(request.param)
    return report


# ---------------------------------------------------------------------- what is written


def test_the_verdict_comes_first_and_every_section_is_named(full: Report) -> None:
    page = as_html(full)
    places = [page.index(f'<h2 id="{name}"') for name in TITLES if name != "guards"]  # of a service
    assert places == sorted(places)
    assert '<h2 id="guards"' not in page
    assert next(iter(TITLES)) == "verdict"
    text = Outline(page, VOID_TAGS).text
    assert full.guarantee.sentence in text
    assert "What to do" in text
    assert "none more than is proved" in text
    assert "labels only" in text
    assert full.reproduce in text


def test_every_number_of_the_tables_is_there(full: Report) -> None:
    text = Outline(as_html(full), VOID_TAGS).text
    said = dataclasses.replace(full, leakage=tuple(map(readable, full.leakage)))
    for table in (tables.utility(full), tables.leakage(said), tables.statement(full.guarantee)):
        for row in table.rows:
            for cell in row:
                assert " ".join(cell.split()) in text
    assert "true positives at the FPR of 1 % asked for" in text


def test_it_is_one_file_that_loads_nothing(any_report: Report) -> None:
    page = Outline(as_html(any_report), VOID_TAGS)
    tags = {tag for tag, _ in page.found}
    assert tags.isdisjoint({"script", "link", "image", "iframe", "object", "use", "form", "base"})
    assert not re.search(
        r"url\(|@import|https?:", as_html(any_report).replace("http://www.w3.org/2000/svg", "")
    )
    for _, attributes in page.found:
        assert not any(name.startswith("on") or name in ("srcset", "style") for name in attributes)
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png;base64,")
    files = {link["href"] for link in page.all("a") if not str(link["href"]).startswith("#")}
    assert files <= {"statement.json", "report.json", "exposure.csv", "figures/class_inversion.png"}


def test_whoever_sees_records_is_told_before_and_beside_them(report: Report, bare: Report) -> None:
    page = Outline(as_html(report), VOID_TAGS)
    assert page.text.index("Confidential: it shows training records.") < page.text.index("The verdict")
    beside = page.text.index("contain training records and are as confidential as they are")
    assert page.text.index("What was inverted of each class") < beside < page.text.index("nearest training")
    assert "Keep report.html (or .pdf) and class_inversion.png as confidential" in page.text
    assert "onfidential" not in Outline(as_html(bare), VOID_TAGS).text.replace(
        "Treat this model as confidential", ""
    )


def test_the_gallery_shows_each_class_beside_what_it_must_be_compared_with(report: Report) -> None:
    page = Outline(as_html(report), VOID_TAGS)
    kinds = (
        "mean of held-out records",
        "inverted from the release",
        "inverted from the control model, not private",
        "nearest training record",
    )
    gallery = report.gallery
    assert gallery is not None
    assert [picture["alt"] for picture in page.all("img")] == [
        f"{label}: {kind}" for label in gallery.classes for kind in kinds
    ]
    sources = [str(picture["src"]).partition(",")[2] for picture in page.all("img")]
    first = np.asarray(Image.open(io.BytesIO(b64decode(sources[1]))))
    expected = gallery.released[0, 0].numpy()
    assert np.abs(first / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_a_gallery_without_a_twin_has_no_column_for_it(report: Report, rgb_gallery: Gallery) -> None:
    page = Outline(
        as_html(dataclasses.replace(report, gallery=dataclasses.replace(rgb_gallery, control=None))),
        VOID_TAGS,
    )
    assert len(page.all("img")) == 3 * len(rgb_gallery.classes)
    assert "from the control" not in page.text


def test_it_is_built_for_everyone(any_report: Report) -> None:
    page = Outline(as_html(any_report), VOID_TAGS)
    assert page.all("html")[0]["lang"] == "en"
    assert [tag for tag, _ in page.found if tag in ("header", "nav", "main", "footer")] == [
        "header", "nav", "main", "footer",
    ]  # fmt: skip
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    names = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(names) == len(set(names))
    for tag, attributes in page.found:
        for name in str(attributes.get("aria-labelledby") or "").split():
            assert name in names
        if tag == "a" and str(attributes["href"]).startswith("#"):
            assert str(attributes["href"])[1:] in names
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg":
            assert attributes["role"] == "img"
    assert len(page.all("caption")) == len(page.all("table")) >= 2
    assert len(page.all("desc")) == len(page.all("svg")) == len(page.all("figcaption")) >= 1


def test_nothing_from_outside_becomes_markup(full: Report) -> None:
    line = dataclasses.replace(
        full.leakage[0],
        attack=HOSTILE,
        metric=HOSTILE,
        notes=HOSTILE,
        verdict=HOSTILE,
        details={HOSTILE: 1.0},
    )
    hostile = dataclasses.replace(
        full,
        recipe=HOSTILE,
        data={**full.data, "name": HOSTILE, "source": HOSTILE},
        guarantee=dataclasses.replace(
            full.guarantee,
            sentence=HOSTILE,
            outside_guarantee=(HOSTILE,),
            versions={HOSTILE: HOSTILE},
            interface=HOSTILE,
        ),
        leakage=(line, dataclasses.replace(full.leakage[2], attack=HOSTILE), *full.leakage[3:]),
        queries={HOSTILE: full.queries["class_inversion_queries"]},
        seconds={HOSTILE: 1.0},
        reproduce=HOSTILE,
    )
    page = Outline(as_html(hostile), VOID_TAGS)
    assert page.all("script") == []
    assert page.text.count(HOSTILE) > 10
    assert len(page.found) < 2 * len(Outline(as_html(full), VOID_TAGS).found)


def test_a_void_guarantee_promises_nothing(void: Report) -> None:
    page = Outline(as_html(void), VOID_TAGS)
    assert page.text.index("VOID: the noise was drawn") < page.text.index("What is promised")
    assert "To nobody." in page.text
    assert "Do not release this model as a private one" in page.text
    assert "impossible" not in page.text
    before_the_statement = page.text[: page.text.index("Every term of the guarantee")]
    assert "0.411" not in before_the_statement
    assert "3.00" not in before_the_statement


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("exceeds the bound: broken", "Broken"),
        ("resisted: not above the baseline, the control is", "Resisted"),
        ("not above the baseline, no control", "No control"),
    ],
)
def test_every_verdict_has_a_badge(report: Report, verdict: str, says: str) -> None:
    line = dataclasses.replace(report.leakage[2], verdict=verdict)
    page = Outline(as_html(dataclasses.replace(report, leakage=(line,)))).text
    assert f"Each measurement {says} {line.attack}" in page
    assert ("Do not release this model." in page) == verdict.startswith("exceeds")


def test_marks_become_elements_and_all_else_is_text() -> None:
    assert marked("**a<b** *c* `d`") == "<strong>a&lt;b</strong> <em>c</em> <code>d</code>"
    assert marked("2 * 3 * 4") == "2 * 3 * 4"
    assert marked("1 % of") == "1\u00a0% of"


def test_the_folder_is_made(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_text(as_html(report), path)
    assert path.read_text(encoding="utf-8") == as_html(report)


def test_figures_take_their_colours_from_the_style_sheet(full: Report) -> None:
    classes = set(re.findall(r"svg [^{]*\.([a-z]+)", style("page")))
    for svg in re.findall(r"<svg.*?</svg>", as_html(full), flags=re.S):
        for element in ElementTree.fromstring(svg).iter():
            assert not {"fill", "stroke", "style"} & set(element.attrib)
            assert set(element.get("class", "").split()) <= classes | {"name", "label", "void"}


# ---------------------------------------------------------------------- in a real browser


@pytest.fixture
def at(any_report: Report, tmp_path: Path) -> str:
    """Address of the page."""
    write_text(as_html(any_report), tmp_path / "report.html")
    return (tmp_path / "report.html").as_uri()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(page: Page, at: str, scheme: str) -> None:
    page.open(at, scheme=scheme)
    assert page.faint_text() == []
    assert [url for url in page.requests() if not url.startswith("data:")] == [at]
    assert page.complaints() == []
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", background))) > 128) == (scheme == "light")


@needs_browser
def test_paper_is_white_whatever_the_screen(page: Page, at: str) -> None:
    page.open(at, scheme="dark", media="print")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.faint_text() == []
    shown = "[...document.querySelectorAll('details li')].every(item => item.checkVisibility())"
    assert page.run(shown), "what is folded away on the screen is on paper"


@needs_browser
@pytest.mark.parametrize("width", [320, 375, 768])
def test_the_page_does_not_scroll_sideways(page: Page, at: str, width: int) -> None:
    page.open(at, width=width, height=800)
    assert page.run("document.documentElement.scrollWidth") <= width
    focusable = "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
    focusable += "['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).every(e => e.tabIndex >= 0)"
    assert page.run(focusable), "whatever scrolls can be scrolled by keyboard"


@needs_browser
def test_figures_keep_their_words_apart_and_within(page: Page, at: str) -> None:
    page.open(at)
    found = page.run(BOXES)
    for text in found:
        left, top, right, bottom = text["box"]
        width, height = text["size"]
        assert left >= -2, text
        assert right <= width + 14, text  # a last tick may stand out by half its width
        assert top >= -2, text
        assert bottom <= height + 2, text
    for one, other in ((a, b) for i, a in enumerate(found) for b in found[:i] if a["figure"] == b["figure"]):
        if "VOID" in (one["words"], other["words"]):
            continue
        (a, b, c, d), (e, f, g, h) = one["box"], other["box"]
        assert min(c, g) - max(a, e) < 1 or min(d, h) - max(b, f) < 5, (one, other)


@needs_browser
def test_the_keyboard_suffices(page: Page, at: str) -> None:
    page.open(at)
    page.press("Tab")
    assert page.run("document.activeElement.textContent") == "Skip to the verdict"
    assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    assert page.run("location.hash") == "#verdict"
    assert page.run("document.activeElement.id") == "verdict"


@needs_browser
def test_the_page_refuses_what_it_was_not_written_with(page: Page, report: Report, tmp_path: Path) -> None:
    """The checks above see a breach, and the page's own policy prevents it."""
    spoilt = as_html(report).replace("<h1>", f'<img src="other.png">{HOSTILE}<h1>')
    spoilt = spoilt.replace("--quiet: #565e66", "--quiet: #b0b0b0").replace(
        "max-width: 66rem", "width: 90rem"
    )
    path = tmp_path / "spoilt.html"
    path.write_text(spoilt, encoding="utf-8")
    page.open(path.as_uri(), width=375)
    assert page.run("document.title") == "Privacy report: medical_cnn"
    assert page.run("document.querySelector('img').naturalWidth") == 0
    assert page.complaints() != []
    assert page.faint_text() != []
    assert page.run("document.documentElement.scrollWidth") > 375


@needs_browser
def test_the_gallery_is_seen(page: Page, report: Report, tmp_path: Path) -> None:
    write_text(as_html(report), tmp_path / "report.html")
    page.open((tmp_path / "report.html").as_uri())
    assert page.run("[...document.images].every(image => image.naturalWidth === 28 && image.width > 40)")
    assert page.complaints() == []


@needs_browser
def test_it_prints(page: Page, at: str, tmp_path: Path) -> None:
    page.open(at)
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
