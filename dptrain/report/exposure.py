"""The training records that attacks recognise most easily, as a table for the data's owner."""

from __future__ import annotations

import csv
from pathlib import Path

from dptrain.contracts import Report


def write_exposure(report: Report, path: Path) -> None:
    """One row a probe that was trained on, the most exposed first: where it is, its label, and by attack
    its score and the share of non-members that score lower."""
    attacks = list(report.exposed[0].score)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        kinds = ("percentile", "score")
        writer.writerow(["record", "label", *(f"{attack}_{kind}" for attack in attacks for kind in kinds)])
        for row in report.exposed:
            numbers = [value for attack in attacks for value in (row.percentile[attack], row.score[attack])]
            writer.writerow([row.record, row.label, *(f"{value:.6g}" for value in numbers)])
