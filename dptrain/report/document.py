"""The numbers of a run as files: all as JSON, for other programs, and those of records, for their owner."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dptrain.contracts import DataError, Interval, Leakage, Report, Utility
from dptrain.privacy.written import to_json
from dptrain.storage import write_csv


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values; numbers that are infinite or undefined become None.

    A guarantee of None for `epsilon` means that there is none; constants that a mechanism does
    not have (the steps of one that is not private) are None too.
    """
    document = {
        "recipe": report.recipe,
        "name": report.name,
        "mechanism": report.mechanism,
        "data": report.data,
        "counts": asdict(report.counts),
        "utility": _utility(report.utility),
        "control": None if report.control is None else _utility(report.control),
        "costs": [asdict(each) for each in report.costs],
        "floor_accuracy": report.floor_accuracy,
        "guarantee": to_json(report.guarantee),
        "epsilon_by_step": report.epsilon_by_step,
        "holdout_by_step": report.holdout_by_step,
        "tradeoff": report.tradeoff,
        "leakage": [_leakage(line) for line in report.leakage],
        "not_run": [asdict(each) for each in report.not_run],
        "scaled": [asdict(each) for each in report.scaled],
        "queries": report.queries,
        "guarding": None if report.guarding is None else asdict(report.guarding),
        "seconds": report.seconds,
        "folder": report.folder,
        "reproduce": report.reproduce,
    }
    return _plain(document)


def read_json(path: Path) -> dict[str, Any]:
    """The report in a file of JSON; raises DataError where it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _no_report(path, type(error).__name__) from error
    if not isinstance(found, dict):
        raise _no_report(path, f"a {type(found).__name__}")
    return found


def _no_report(path: Path, why: str) -> DataError:
    return DataError(f"{path} is no report of dptrain ({why}); restore it, or train the run again")


def _utility(utility: Utility) -> dict[str, Any]:
    return {
        **_ends("accuracy", "accuracy_", utility.accuracy),
        **_ends("auroc", "auroc_", utility.auroc),
        "loss": utility.loss,
        "records": utility.records,
        "metric": utility.metric,
        "scored": utility.scored,
        **{name: _by_name(getattr(utility, name)) for name in ("more", "by_class")},
        "by_subgroup": [asdict(each) for each in utility.by_subgroup],
        "confusion": utility.confusion,
        "calibration": None if utility.calibration is None else asdict(utility.calibration),
    }


def _by_name(found: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in found.items()}


def _leakage(line: Leakage) -> dict[str, Any]:
    return {**asdict(line), **_ends("value", "", line.value), **_ends("control", "control_", line.control)}


def _ends(name: str, prefix: str, value: Interval | None) -> dict[str, float | None]:
    """An interval as three flat numbers."""
    if value is None:
        return {name: None, f"{prefix}low": None, f"{prefix}high": None}
    return {name: value.value, f"{prefix}low": value.low, f"{prefix}high": value.high}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a number from numpy or torch
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_exposure(report: Report, path: Path) -> None:
    """One row a probe that was trained on, the most exposed first: where it is, its label, and by attack
    its score and the share of non-members that score lower."""
    attacks = list(report.exposed[0].score)
    rows = [
        ["record", "label", *(f"{attack}_{kind}" for attack in attacks for kind in ("percentile", "score"))]
    ]
    for row in report.exposed:
        numbers = [value for attack in attacks for value in (row.percentile[attack], row.score[attack])]
        rows.append([str(row.record), str(row.label), *(f"{value:.6g}" for value in numbers)])
    write_csv(rows, path)
