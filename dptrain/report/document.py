"""The report as JSON: every number of a run, for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dptrain.contracts import Interval, Leakage, Report, Utility
from dptrain.privacy.written import to_json
from dptrain.storage import write_text


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values; numbers that are infinite or undefined become None.

    A guarantee of None for `epsilon` means that there is none; constants that a mechanism does
    not have (the steps of one that is not private) are None too.
    """
    document = {
        "recipe": report.recipe,
        "mechanism": report.mechanism,
        "data": report.data,
        "utility": _utility(report.utility),
        "control": None if report.control is None else _utility(report.control),
        "floor_accuracy": report.floor_accuracy,
        "guarantee": to_json(report.guarantee),
        "epsilon_by_step": report.epsilon_by_step,
        "holdout_by_step": report.holdout_by_step,
        "tradeoff": report.tradeoff,
        "leakage": [_leakage(line) for line in report.leakage],
        "not_run": [asdict(each) for each in report.not_run],
        "queries": report.queries,
        "seconds": report.seconds,
        "folder": report.folder,
        "reproduce": report.reproduce,
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def write_json(report: Report, path: Path) -> None:
    """Write the report whole or not at all: a reader never meets half a file."""
    text = json.dumps(as_json(report), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(text + "\n", path)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _utility(utility: Utility) -> dict[str, Any]:
    return {
        "accuracy": utility.accuracy.value,
        "accuracy_low": utility.accuracy.low,
        "accuracy_high": utility.accuracy.high,
        "auroc": utility.auroc,
        "loss": utility.loss,
        "records": utility.records,
        **_of_another_task(utility),
    }


def _of_another_task(utility: Utility) -> dict[str, Any]:
    """What `accuracy` stands for, and further measures, where the task is not classification."""
    if utility.metric == "accuracy":
        return {}
    more = {
        name: {"value": found.value, "low": found.low, "high": found.high}
        for name, found in utility.more.items()
    }
    return {"metric": utility.metric, "more": more}


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
