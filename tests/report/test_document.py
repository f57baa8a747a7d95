"""report.json: complete, plain, and whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dptrain.contracts import Report
from dptrain.evidence.intervals import UNDEFINED_AREA
from dptrain.privacy.written import from_json, to_json
from dptrain.report.document import as_json, read_json
from dptrain.storage import write_json


def test_the_document_survives_the_file(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.json"
    write_json(as_json(report), path)
    assert read_json(path) == as_json(report)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_every_number_is_there_and_is_a_number(report: Report) -> None:
    document = as_json(report)
    assert (
        document["utility"].items()
        >= {
            "accuracy": 0.873,
            "accuracy_low": 0.851,
            "accuracy_high": 0.892,
            "auroc": 0.981,
            "auroc_low": 0.973,
            "auroc_high": 0.987,
            "loss": 0.412,
            "records": 1000,
        }.items()
    )
    assert document["control"]["accuracy"] == 0.951
    assert document["guarantee"] == to_json(report.guarantee)
    assert from_json(document["guarantee"]) == report.guarantee
    assert document["epsilon_by_step"][-1] == [600, 3.0]
    line = document["leakage"][0]
    assert set(line) == {
        "attack", "metric", "value", "low", "high", "floor", "control", "control_low", "control_high",
        "bound", "detection_limit", "verdict", "trials", "confidence", "interface", "notes", "details",
    }  # fmt: skip
    assert (line["value"], line["low"], line["high"]) == (0.625, 0.406, 0.812)
    assert line["control_high"] == 1.0
    assert line["bound"] is None
    assert document["leakage"][2]["bound"] == 0.411
    assert document["seconds"]["total"] == 151.0


def test_what_is_infinite_or_absent_becomes_null(bare: Report) -> None:
    document = as_json(bare)
    json.dumps(document, allow_nan=False)
    assert document["guarantee"]["epsilon"] is None
    assert document["guarantee"]["steps"] is None
    assert document["guarantee"]["private"] is False
    assert document["control"] is None
    assert document["leakage"] == []


def test_undefined_and_foreign_numbers(report: Report) -> None:
    utility = dataclasses.replace(
        report.utility, auroc=UNDEFINED_AREA, loss=np.float32(0.5), records=torch.tensor(7)
    )  # type: ignore[arg-type]
    document = as_json(dataclasses.replace(report, utility=utility))
    assert document["utility"]["auroc"] is None
    assert document["utility"]["loss"] == 0.5
    assert document["utility"]["records"] == 7
    json.dumps(document, allow_nan=False)


def test_a_failed_write_leaves_the_old_file(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_text("{}", encoding="utf-8")

    def full_disk(*_: Path) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_json(as_json(report), path)
    assert read_json(path) == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
