"""Reports in a notebook: a run's or a comparison's page, and its numbers as tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dptrain.contracts import Report, Statement, Utility
from dptrain.report.comparison import page as comparison_page
from dptrain.report.comparison.files import by_point
from dptrain.report.comparison.points import Comparison
from dptrain.report.pages import as_html

if TYPE_CHECKING:
    import pandas

FRAME = '<iframe srcdoc="{}" style="width: 100%; height: 40rem; border: 1px solid #8884"></iframe>'


@dataclass(frozen=True)
class ReportView:
    """A run's report for a program: what is proved, what was measured, and where its files are."""

    document: Report

    @property
    def guarantee(self) -> Statement:
        """What is proved, in full."""
        return self.document.guarantee

    @property
    def utility(self) -> Utility:
        """How good the release is on the test records."""
        return self.document.utility

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return self.document.folder

    @property
    def leakage(self) -> pandas.DataFrame:
        """What attacks measured: a line each, with interval, floor, control, bound and detection limit."""
        import pandas  # takes a second, and most programs look at no table

        rows = []
        for line in self.document.leakage:
            row = asdict(line)
            row |= {"value": line.value.value, "low": line.value.low, "high": line.value.high}
            row |= {"control": None if line.control is None else line.control.value}
            rows.append(row)
        first = ["attack", "metric", "interface", "value", "low", "high", "floor", "control", "bound"]
        first += ["detection_limit", "verdict", "trials", "confidence", "notes"]
        return pandas.DataFrame(rows, columns=first)

    def _repr_html_(self) -> str:
        return _framed(as_html(self.document))


@dataclass(frozen=True)
class ComparisonView:
    """What several runs say together, for a program."""

    document: Comparison

    @property
    def points(self) -> pandas.DataFrame:
        """A line a point: runs that differ in nothing but the seed."""
        import pandas  # as above

        return pandas.DataFrame(by_point(self.document))

    def _repr_html_(self) -> str:
        return _framed(comparison_page.as_html(self.document))


def _framed(page: str) -> str:
    """A page with styles of its own, kept apart from the notebook's."""
    return FRAME.format(page.replace("&", "&amp;").replace('"', "&quot;"))
