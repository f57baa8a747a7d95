"""The table of what pre-trained features are worth is made of runs, one for each seed."""

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
    return support.script("bench_pretrained")


def test_rows_are_medians_of_runs(
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
            "utility": {"accuracy": 0.8 + 0.01 * number, "auroc": 0.9},
            "holdout_by_step": [[1, 0.8, 1.0]],
            "guarantee": {"epsilon": 1.0, "delta": 1e-5, "noise_multiplier": 3.0},
            "seconds": {"train": 60.0 if number == 1 else 6.0},
        }

    asked = started(report)
    words = ["--output", str(tmp_path / "runs"), "--rows", "medical_pretrained@1", "cifar10_pretrained"]
    assert script.main(words) == 0
    shown = capsys.readouterr()
    assert "left out: cifar10_pretrained@1, for there is no cifar10.npz" in shown.err
    row = "| PneumoniaMNIST, medical_pretrained | 1 | 82.00 [81.00, 83.00] % | 0.900 [0.900, 0.900] |"
    assert f"{row} 1.0, 0.1, 0.1 |" in shown.out
    assert len(asked) == 3
    assert all("recipe=medical_pretrained" in each for each in asked)
    assert script.main([*words[:3], "cifar10_pretrained"]) == 2
