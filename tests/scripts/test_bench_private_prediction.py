"""The table of private prediction holds accuracies by the number of answers, and where DP-SGD is ahead."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest
import support
import torch

from dptrain.mechanisms.private_prediction import PrivatePrediction

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_private_prediction")


def test_teachers_vote_on_test_records(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "RECIPE", "quickstart")
    _, counts, labels = script.votes(0, 20, ["model=logistic"])
    assert counts.shape == (len(labels), 10)
    assert (counts.sum(1) == 20).all()
    assert (counts.argmax(1) == labels).double().mean() > 0.8


def test_lines_fall_with_the_answers_and_cross(
    script: ModuleType, measured: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def votes(*_: object) -> tuple[PrivatePrediction, torch.Tensor, torch.Tensor]:
        mechanism = PrivatePrediction(settings=None)  # type: ignore[arg-type]
        labels = torch.arange(3000) % 10
        return mechanism, torch.nn.functional.one_hot(labels, 10) * 150.0 + 10.0, labels

    run = measured.Run(
        accuracy=0.9, auroc=1.0, holdout=0.9, epsilon=3.0, delta=1e-5, noise_multiplier=1.0, minutes=1.0,
        peak_gib=None,
    )  # fmt: skip
    monkeypatch.setattr(script, "votes", votes)
    monkeypatch.setattr(script, "measure", lambda *_: [run, dataclasses.replace(run, accuracy=0.91), run])
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{script.BEGIN}\n{script.END}\nafter\n")
    assert script.main(["--write", str(readme)]) == 0
    rows = [line.split(" | ") for line in readme.read_text().splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| epsilon", "| ---", "| 1", "| 3", "| 8"]
    for row in rows[2:]:
        medians = [float(cell.split(" ")[0]) for cell in row[1:9]]
        assert medians == sorted(medians, reverse=True)
        assert row[9] == "90.00 [90.00, 91.00]"
    evens = [int(row[10].strip(" |").replace(",", "").split()[-1]) for row in rows[2:]]
    assert evens == sorted(evens)
