from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import support

from dptrain.data.files import find

pytestmark = pytest.mark.run

needs_mnist = pytest.mark.skipif(
    find("mnist.npz", root=None) is None, reason="mnist.npz is not in the folder DPTRAIN_DATA"
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return support.script("bench_reconstruction")


def lines(script: ModuleType, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    """What the last line of output says."""
    assert script.main([*options, "--workers", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@needs_mnist
def test_the_last_line_holds_every_measured_number(script, capsys) -> None:
    found = lines(script, capsys, "--runs", "3", "--epsilon", "1", "--steps", "4")
    assert (found["runs"], found["candidates"]) == (3, 10)
    assert found["seconds"] > 0
    assert list(found["epsilon"]) == ["1"]
    line = found["epsilon"]["1"]
    names = {"bound", "orthogonal", "transcript", "low", "high", "ratio", "weights", "control"}
    assert set(line) >= names
    assert line["bound"] == pytest.approx(0.155, abs=0.001)
    assert line["orthogonal"] == pytest.approx(0.95 * line["bound"], abs=0.002)
    assert line["low"] <= line["transcript"] <= line["high"]
    assert line["control"] == 1.0


@needs_mnist
def test_many_slots_in_one_training_are_compared_with_what_they_are_worth(script, capsys) -> None:
    options = ("--runs", "3", "--epsilon", "1", "--steps", "4", "--slots", "4", "--candidates", "3")
    line = lines(script, capsys, *options)["epsilon"]["1"]
    assert 0 < line["effective_foretold"] <= 4
    assert line["variance_low"] <= line["variance"] <= line["variance_high"]
    assert 0 <= line["coverage"] <= 1


def test_the_best_test_over_orthogonal_gradients_agrees_with_known_cases(script) -> None:
    assert script.orthogonal_success(0.0, 10) == pytest.approx(0.1)
    # Two orthogonal candidates lie sqrt(2) mu apart: right with probability Phi(mu / sqrt(2)).
    assert script.orthogonal_success(2**0.5, 2) == pytest.approx(0.841345, abs=1e-6)
    assert script.orthogonal_success(8.0, 100) > 0.999


def test_without_data_it_says_where_it_looked(script, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    script.population.cache_clear()
    assert script.main(["--workers", "1"]) == 2
    complaint = capsys.readouterr().err
    assert "mnist.npz was not found" in complaint
    assert str(tmp_path) in complaint
