"""The table of private aggregation beside DP-SGD is made of runs, one for each seed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_pate")


def test_each_training_has_a_line_at_each_epsilon(
    script: ModuleType, started: support.Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(number: int) -> dict[str, Any]:
        return {
            "utility": {"accuracy": 0.8, "auroc": 0.9 + 0.001 * number},
            "holdout_by_step": [[1, 0.8, 1.0]],
            "guarantee": {"epsilon": 2.0, "delta": 1e-5, "noise_multiplier": None},
            "seconds": {"train": 6.0},
        }

    asked = started(report)
    assert script.main(["--output", str(tmp_path), "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    assert len(asked) == 8
    assert sum("mechanism=pate" in words for words in asked) == 2
    assert "| PneumoniaMNIST | `recipe=medical_pate` | 1 | 80.0 [80.0, 80.0] % |" in shown
    assert "| Adult | `recipe=credit_mlp` | 2 | 80.0 [80.0, 80.0] % |" in shown
