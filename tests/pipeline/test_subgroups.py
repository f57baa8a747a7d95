"""Subgroups from declaration to every document: what is too small is in none of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import QUICK

import dptrain
from dptrain.contracts import Records, Splits
from dptrain.pipeline import tracked

pytestmark = pytest.mark.run

WORDS = (*QUICK, "tracking=csv", "training.expected_batch_size=20", "evidence.probes=20", "attack=[]")

NOISE = {"epsilon": None, "noise_multiplier": 2.0, "delta": None}


@pytest.fixture
def told_apart(splits: Splits) -> Splits:
    """Sixty test records, four of a scanner that must not be known to be there."""
    records = [splits.test] * 3
    test = Records(torch.cat([each.inputs for each in records]), torch.cat([each.labels for each in records]))
    scanner = ("Large",) * 30 + ("Middling",) * 26 + ("Unheardof",) * 4
    return replace(splits, test=test, subgroups={"scanner": scanner, "sex": ("f", "m") * 30})


def test_small_subgroups_are_shown_nowhere(
    told_apart: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dptrain.run(
        "quickstart", *WORDS, data=told_apart, privacy=NOISE,
        output=tmp_path,
    )  # fmt: skip
    document = json.loads((found.folder / "report.json").read_text())
    shown = {(each["column"], each["name"]): each["records"] for each in document["utility"]["by_subgroup"]}
    assert shown == {
        ("scanner", "Large"): 30, ("scanner", "all others"): 30, ("sex", "f"): 30, ("sex", "m"): 30,
    }  # fmt: skip
    assert [(each["by"], each["name"]) for each in document["costs"]][-4:] == list(shown)
    assert document["costs"][0]["records"] == 60
    said = capsys.readouterr()
    written = {path.name: path.read_bytes() for path in found.folder.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "model_card.md", "costs.svg", "calibration.svg"} <= written.keys()
    for hidden in ("Unheardof", "Middling"):
        assert hidden not in said.out + said.err
        assert [name for name, content in written.items() if hidden.encode() in content] == []
    for name in ("report.html", "report.md", "costs.svg"):
        assert b"scanner = all others" in written[name], name
    assert b"release \xe2\x88\x92 control" not in written["model_card.md"]


def test_metrics_have_names_of_their_own(told_apart: Splits, tmp_path: Path) -> None:
    classes = replace(told_apart, classes=("<5 mm", ">5 mm", "a/b"))
    found = dptrain.run("quickstart", *WORDS, data=classes, privacy=NOISE, output=tmp_path)
    seen = [name for name, _, _ in tracked.metrics(found.document)]
    named = [name for name in seen if name.startswith("utility/")]
    assert named[3:] == [
        "utility/scanner.Large",
        "utility/scanner.all_others",
        "utility/sex.f",
        "utility/sex.m",
    ]
    assert named[:3] == ["utility/class._5_mm", "utility/class._5_mm_", "utility/class.a_b"]
    assert {name.replace("cost/", "utility/") for name in seen if name.startswith("cost/")} == set(named)


def test_where_labels_alone_are_given_away_nothing_is_calibrated(told_apart: Splits, tmp_path: Path) -> None:
    found = dptrain.run(
        "quickstart", *WORDS, "release.output=labels_only", data=told_apart,
        privacy=NOISE, output=tmp_path,
    )  # fmt: skip
    document = json.loads((found.folder / "report.json").read_text())
    assert document["utility"]["calibration"] is None
    assert document["utility"]["by_class"]
    assert not (found.folder / "figures" / "calibration.svg").exists()


def test_subgroups_of_other_records_are_refused(splits: Splits, tmp_path: Path) -> None:
    wrong = replace(splits, subgroups={"sex": ("f",)})
    with pytest.raises(dptrain.DataError, match=r"subgroups\.sex has 1 values; give one a test record: 20"):
        dptrain.run("quickstart", *WORDS, data=wrong, output=tmp_path)
