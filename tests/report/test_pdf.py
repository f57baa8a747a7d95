"""report.pdf: told what is missing before anything is trained, and a page on paper where nothing is."""

from __future__ import annotations

import builtins
import importlib.util
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from support import order

from dptrain.assembly.components import assemble
from dptrain.config import parse
from dptrain.contracts import ConfigError, DptrainError, Report
from dptrain.report import write
from dptrain.report.pages import as_html
from dptrain.report.pdf import coloured, missing, write_pdf

pytestmark = pytest.mark.e2e

needs_weasyprint = pytest.mark.skipif(
    importlib.util.find_spec("weasyprint") is None, reason="no WeasyPrint here; the extra `pdf` brings it"
)


def without(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every import of WeasyPrint end in this error."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "weasyprint":
            raise error
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'weasyprint'"), OSError("cannot load library 'libpango'\nmore")]
)
def test_what_is_missing_is_told_before_the_training(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    without(monkeypatch, error)
    with pytest.raises(ConfigError, match=r"report\.pdf=true needs WeasyPrint.*pip install 'dptrain\[pdf\]'"):
        assemble(parse(order("report.pdf=true").config))
    assemble(parse(order().config))


def test_a_page_is_not_written_without_it(
    monkeypatch: pytest.MonkeyPatch, report: Report, tmp_path: Path
) -> None:
    without(monkeypatch, ImportError("no"))
    with pytest.raises(DptrainError, match=r"a\.pdf needs WeasyPrint"):
        write_pdf(as_html(report), tmp_path / "a.pdf")


def test_every_picture_carries_its_colours(report: Report) -> None:
    page = coloured(as_html(report))
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(pictures) >= 4
    assert all("<style>" in picture and "var(" not in picture for picture in pictures)
    assert "stroke: #0a659c" in pictures[0]


def test_there_is_none_unless_it_is_asked_for(report: Report) -> None:
    assert "report.pdf" not in [path.name for path in write(report)]


@needs_weasyprint
@pytest.mark.filterwarnings("ignore")
def test_it_is_written_with_pictures_in_colour(report: Report) -> None:
    assert missing() is None
    assert "report.pdf" in [path.name for path in write(report, pdf=True)]
    pdf = (report.folder / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    drawn = b""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, flags=re.S):
        try:
            drawn += zlib.decompress(stream)
        except zlib.error:
            continue
    assert re.search(rb"0\.039\d* 0\.396\d* 0\.611\d* RG", drawn), "no line in the release's blue"
    assert len(re.findall(rb"/Subtype ?/Image", pdf + drawn)) >= 20
