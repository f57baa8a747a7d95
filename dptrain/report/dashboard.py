"""The page of those who run a service: alarms, sessions, keys, budgets, from plain rows by a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dptrain.report.figure import style
from dptrain.report.render import environment

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Cells in the order of the columns; `id` of what can be acknowledged."""

    cells: tuple[str, ...]
    id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table, and what is said in its place where there is nothing in it."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    empty: str
    numbers: frozenset[str] = frozenset()
    action: str | None = None  # where what a row is about can be acknowledged


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """All that is on the page; `token` proves that a form came from it."""

    title: str
    tables: Sequence[Listing]
    promise: str
    digest: str
    output: str
    guards: str
    written: str
    token: str


def as_html(page: Dashboard) -> str:
    """The page, which needs nothing from elsewhere and runs no script."""
    return environment().get_template("dashboard.html").render(page=page, style=Markup(style("page")))
