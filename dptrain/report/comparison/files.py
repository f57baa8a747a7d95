"""Files of a comparison for other programs: its points as a table, and its figures."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from dptrain.evidence.repeats import Spread
from dptrain.report.comparison import guards
from dptrain.report.comparison.figures import frontier, leakage, utility
from dptrain.report.comparison.page import as_json
from dptrain.report.comparison.points import Comparison, Line, Point
from dptrain.report.figure import standalone, style
from dptrain.storage import write_csv, write_text


def write_files(comparison: Comparison, folder: Path) -> list[Path]:
    """Write comparison.json, points.csv and figures/ into the folder; returns their paths."""
    figures = folder / "figures"
    whole, points = folder / "comparison.json", folder / "points.csv"
    write_text(json.dumps(as_json(comparison), indent=1, ensure_ascii=False), whole)
    columns = by_point(comparison)
    write_csv([list(columns), *zip(*columns.values(), strict=True)], points)
    drawn = [utility(comparison), *leakage(comparison), guards.figure(comparison), frontier(comparison)]
    written = [whole, points]
    for figure in drawn:
        if figure is not None:
            path = figures / f"{re.sub(r'[^a-z0-9]+', '_', figure.title.lower()).strip('_')}.svg"
            write_text(standalone(figure, sheet=style("comparison")), path)
            written.append(path)
    return written


def by_point(comparison: Comparison) -> dict[str, list[Any]]:
    """One column a quantity, one row a point, by names as short as the metrics of runs; None: not known.

    Of a quantity over seeds it is the centre; the accuracy's interval is beside it.
    """
    rows = [_row(point) for point in comparison.points]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _row(point: Point) -> dict[str, Any]:
    around = point.accuracy.interval
    row: dict[str, Any] = {
        "point": point.label,
        "seeds": " ".join(map(str, point.seeds)),
        "epsilon": point.epsilon if point.private else None,
        "accuracy": point.accuracy.centre,
        "accuracy_low": None if around is None else around.low,
        "accuracy_high": None if around is None else around.high,
        "auroc": _centre(point.auroc),
        "control_accuracy": _centre(point.control_accuracy),
        "floor_accuracy": point.floor,
        "bound_membership": point.membership_bound if point.private else None,
    }
    for line in point.lines:
        row |= _of(line)
    return row


def _of(line: Line) -> dict[str, float | None]:
    name = f"{line.attack}.{line.metric}"
    if line.interface not in ("", "confidences"):
        name += f".{line.interface}"
    bound = line.bound if line.bound is not None and math.isfinite(line.bound) else None
    return {name: line.measured.centre, f"control_{name}": _centre(line.control), f"bound_{name}": bound}


def _centre(found: Spread | None) -> float | None:
    return None if found is None else found.centre
