"""Documents from their sections, by the templates of this package: HTML, escaped, and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from dptrain.report.blocks import Page, Section, Table
from dptrain.report.figure import style
from dptrain.report.words import tied

# Whatever a browser might be talked into fetching or running, it refuses.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(content: Page) -> str:
    """An HTML file that needs nothing else: no script, no font, no image from elsewhere."""
    sheet = "".join(map(style, content.styles))
    policy = f"{POLICY}; img-src {content.images}" if content.images else POLICY
    return environment().get_template("page.html").render(page=content, style=Markup(sheet), policy=policy)


def markdown(title: str, sections: Iterable[Section], *, front: str = "") -> str:
    """A Markdown document; `front` is metadata in YAML."""
    return environment().get_template("document.md").render(title=title, sections=sections, front=front)


def markdown_table(content: Table) -> str:
    """The lines of a table; columns of numbers are aligned to the right."""
    blocks = environment().get_template("blocks.md").module
    return str(blocks.table(content))  # type: ignore[attr-defined]


@cache
def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("dptrain.report"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"marked": marked, "plain": plain, "breakable": breakable, "number": number}
    return found


@cache
def _marks() -> MarkdownIt:
    """The marks that sentences may carry; links lead to files beside the document and nowhere else."""
    found = MarkdownIt("zero").enable(["emphasis", "backticks", "link"])

    def near(url: str) -> bool:
        return re.fullmatch(r"[\w./]+", url) is not None

    found.validateLink = near  # type: ignore[method-assign]
    return found


def marked(text: str) -> Markup:
    """A sentence as HTML, its marks turned into elements and everything else escaped.

    >>> marked("**<b>** is `safe`")
    Markup('<strong>&lt;b&gt;</strong> is <code>safe</code>')
    """
    return Markup(_marks().renderInline(tied(text)))


def plain(text: str) -> Markup:
    """Escaped, each percent sign tied to its number."""
    return escape(tied(text))


def breakable(text: str) -> Markup:
    """Escaped, with places where a long name may be broken."""
    return Markup(re.sub(r"(?<=[_/])", "<wbr>", plain(text)))


def number(text: str) -> Markup:
    """A number, its interval on a line of its own."""
    value, bracket, rest = text.partition(" [")
    if not bracket:
        return breakable(text)
    return Markup('{} <span class="interval">[{}</span>').format(value, rest)
