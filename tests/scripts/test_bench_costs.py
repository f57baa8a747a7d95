"""The tables of what privacy costs whom: a planted subgroup is found, or the script says that it is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_costs")


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def cost(by: str, name: str, excess: float | None) -> dict[str, Any]:
    known = {"release": interval(0.8), "control": interval(0.9), "difference": interval(-0.1)}
    return {
        "by": by,
        "name": name,
        "records": 40,
        "excess": None if excess is None else interval(excess),
        **known,
    }


@pytest.mark.parametrize(("scanner", "lot", "code"), [(-0.2, 0.0, 0), (0.0, 0.0, 1), (-0.2, -0.2, 1)])
def test_a_planted_effect_is_found_and_no_other(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scanner: float,
    lot: float,
    code: int,
) -> None:
    rng = np.random.default_rng(0)
    parts = {"train": 3000, "val": 100, "test": 100}
    np.savez(
        tmp_path / "pneumoniamnist.npz",
        **{f"{part}_images": rng.integers(0, 256, (n, 4, 4), dtype=np.uint8) for part, n in parts.items()},
        **{f"{part}_labels": rng.integers(0, 2, (n, 1)) for part, n in parts.items()},
    )
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))

    def start(words: tuple[str, ...], folder: Path) -> None:
        made = folder / f"run{len(list(folder.glob('run*')))}"
        made.mkdir(parents=True)
        (made / "run.json").write_text(json.dumps({"overrides": list(words)}))
        costs = [cost("all", "", None), cost("scanner", "B", scanner), cost("lot", "B", lot)]
        utility = {"calibration": {"error": interval(0.1)}, "more": {"balanced_accuracy": interval(0.8)}}
        (made / "report.json").write_text(json.dumps({"costs": costs, "utility": utility}))

    monkeypatch.setattr(script, "start", start)
    assert script.main(["--output", str(tmp_path / "runs")]) == code
    shown = capsys.readouterr().out
    assert "| scanner B | 40 | 0.900 [0.850, 0.950] |" in shown
    assert "@8: balanced accuracy 0.800 [0.750, 0.850], calibration error 0.100 [0.050, 0.150]" in shown
    with np.load(tmp_path / "runs" / "planted.npz") as planted:
        rare = float((planted["test_subgroup_scanner"] == "B").mean())
        assert len(planted["test_images"]) == script.TEST
        assert abs(rare - script.RARE) < 0.015
