from __future__ import annotations

import json
from types import ModuleType

import pytest
import support

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return support.script("bench_scale")


def test_a_small_run_measures_everything_and_draws_one_figure(script, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(script, "BATCH", 64)
    monkeypatch.setattr(script, "RECORDS", (1000, 100_000))
    monkeypatch.setattr(script, "BATCHES", (4, 8))
    monkeypatch.setattr(script, "WIDTHS", ((4,), (8,)))
    monkeypatch.setattr(script, "STEPS", (10_000, 1_000_000))
    script.main(["--steps", "2", "--json", "--figure", str(tmp_path / "scale.png")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"records", "batches", "parameters", "steps"}
    assert all(value > 0 for rows in found.values() for row in rows.values() for value in row.values())
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert found["records"]["100000"]["draw"] < found["records"]["100000"]["coin_each"]


@pytest.mark.parametrize(("share", "code"), [(0.019, 0), (0.021, 1)])
def test_a_dear_draw_decides_the_exit_code(script, monkeypatch, tmp_path, share, code) -> None:
    row = {"draw": share, "coin_each": 1.0, "step": 1.0, "share": share}
    both = {"dpsgd": 1.0, "plain": 1.0}
    monkeypatch.setattr(script, "of_records", lambda *_: {10: row, max(script.RECORDS): row})
    monkeypatch.setattr(script, "of_batches", lambda *_: {1: both, 2: both})
    monkeypatch.setattr(script, "of_parameters", lambda *_: {1: both, 2: both})
    monkeypatch.setattr(script, "of_steps", lambda: {1: {"calibrate": 1.0, "curve": 1.0}})
    assert script.main(["--figure", str(tmp_path / "scale.png")]) == code
