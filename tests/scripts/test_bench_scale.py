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


def test_steps_by_two_processes_become_a_table_and_a_figure(script, monkeypatch, capsys, tmp_path) -> None:
    """With processes that take as long as a model says; that they are started is tests/training's."""
    far = script.scale_ranks
    jobs = [far.Job(parameters=p, batch=b, physical=256) for p in (10**4, 10**6) for b in (64, 512)]
    found = [
        far.Measured(job=job, ranks=ranks, seconds=1e-3 + 1e-7 * job.batch * job.parameters / ranks)
        for job in jobs
        for ranks in (1, 2)
    ]
    monkeypatch.setattr(far, "measure", lambda *_, **__: found)
    monkeypatch.setattr(far, "NUMBERS", 1000)
    figure = tmp_path / "processes.png"
    assert script.main(["--processes", "--json", "--figure", str(figure)]) == 0
    said = capsys.readouterr().out
    assert "ASSUMED, not measured" in said
    rows = [line for line in said.splitlines() if line.startswith("| 1e+09 |")]
    assert [int(row.split("|")[2]) for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(said.splitlines()[-1])["machine"]["work"] == pytest.approx(1e-7, rel=0.2)
