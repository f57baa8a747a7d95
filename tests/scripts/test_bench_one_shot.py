"""The table of heads from one release beside DP-SGD's is made of runs, one for each seed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_one_shot")


def test_each_recipe_has_a_line_at_each_epsilon(
    script: ModuleType,
    started: support.Started,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", nothing=np.zeros(1))
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))

    def report(number: int) -> dict[str, Any]:
        return {
            "utility": {"accuracy": 0.8, "auroc": 0.9 + 0.01 * number},
            "holdout_by_step": [[1, 0.8, 1.0]],
            "guarantee": {"epsilon": 0.3, "delta": 1e-5, "noise_multiplier": None},
            "seconds": {"train": 60.0 if number == 1 else 6.0},
        }

    asked = started(report)
    words = ["--output", str(tmp_path / "runs"), "--seeds", "2", "--fashion", str(tmp_path), "--rows"]
    assert script.main([*words, "PneumoniaMNIST@0.3", "fashion_scatter@1"]) == 0
    shown = capsys.readouterr()
    assert "left out: fashion_scatter@1, for its data are missing" in shown.err
    assert "| PneumoniaMNIST, `medical_statistics` | 0.3 | AUROC | 0.915 [0.910, 0.920] | 33 |" in shown.out
    assert "| PneumoniaMNIST, `medical_scatter` | 0.3 | AUROC | 0.975 [0.970, 0.980] | 6 |" in shown.out
    assert len(asked) == 8
    assert script.main([*words, "MNIST"]) == 2


def test_with_few_records_the_data_are_cut_and_classes_keep_their_shares(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = np.array([[0]] * 26 + [[1]] * 74)
    images = np.arange(100).reshape(100, 1, 1).repeat(2, axis=1)
    arrays = {"train_images": images, "train_labels": labels, "val_labels": labels, "test_labels": labels}
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    made, again = (dict(np.load(script.cut(50, tmp_path / name) / "pneumoniamnist.npz")) for name in "ab")
    assert made["train_labels"].sum() == 37
    assert len(set(made["train_images"][:, 0, 0])) == len(made["train_labels"]) == 50
    assert np.array_equal(made["train_labels"], labels[made["train_images"][:, 0, 0]])
    assert np.array_equal(made["test_labels"], labels)
    assert np.array_equal(made["train_images"], again["train_images"])
