"""The parts of documents as data: sections of headings, paragraphs, lists, tables and figures.

Text may carry marks: `**bold**`, `*emphasis*`, `` `code` `` and `[links](to/a.file)` beside the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dptrain.report.figure import Figure

Medium = Literal["html", "markdown"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a section; `only` is the one medium that shows it, None: all do."""

    only: Medium | None = None

    @property
    def kind(self) -> str:
        """The name of the macro that renders it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Heading(Block):
    """A heading below that of the section."""

    text: str


@dataclass(frozen=True)
class Paragraph(Block):
    """Sentences, and what they are about; a style is `lead`, `note`, `alarm` or `warning`."""

    text: str = ""
    head: str = ""
    style: str = ""


@dataclass(frozen=True)
class Answers(Block):
    """Questions, each with its answer; an answer of several texts is a list."""

    items: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Bullets(Block):
    """A list; each item is a name, which may be empty, and a text. Folded away below `summary` in a page."""

    items: tuple[tuple[str, str], ...]
    summary: str = ""


@dataclass(frozen=True)
class Finding:
    """What came of one attack: a badge, and a sentence that `named` findings begin with the badge's words."""

    badge: str
    tone: str
    text: str
    named: bool = False


@dataclass(frozen=True)
class Findings(Block):
    """A list of findings."""

    items: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as plain text; the first cell of a row names it, the columns in `numeric` hold numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: range = range(0)


@dataclass(frozen=True)
class Tabular(Block):
    """A table with its name in links and its caption; a style is `short` or `wide`."""

    table: Table
    name: str = ""
    caption: str = ""
    style: str = ""


@dataclass(frozen=True)
class Cards(Block):
    """Numbers in large letters: name, value and note of each."""

    cards: tuple[tuple[str, str, str], ...]
    style: str = ""


@dataclass(frozen=True)
class Code(Block):
    """Commands, what they are, and what they are folded away below, if they are."""

    text: str
    name: str
    summary: str = ""


@dataclass(frozen=True)
class Figures(Block):
    """Figures side by side where there is room, or one by itself."""

    figures: tuple[Figure, ...]
    single: bool = False


@dataclass(frozen=True)
class ImageFile(Block):
    """An image by its address beside the document."""

    address: str
    caption: str


@dataclass(frozen=True)
class ImageTable(Block):
    """Images by their addresses, a row each of a name; `left_out` counts the rows that are not shown."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a document; its name is that of links to it."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page: what kind it is and of what, where its images may come from, and who may see it."""

    title: str
    kind: str
    name: str
    sections: tuple[Section, ...]
    styles: tuple[str, ...] = ("page",)
    images: str = ""
    confidential: str = ""


def bullets(*texts: str) -> Bullets:
    """A list of sentences."""
    return Bullets(tuple(("", text) for text in texts))
