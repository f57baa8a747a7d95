from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
import support

pytestmark = pytest.mark.run

MNIST = Path(os.environ.get("DPTRAIN_DATA", "nowhere")) / "mnist.npz"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return support.script("bench_membership")


@pytest.mark.skipif(not MNIST.exists(), reason="no mnist.npz in the folder DPTRAIN_DATA")
def test_attacks_with_shadow_models_see_more_than_the_threshold(script, capsys, monkeypatch) -> None:
    monkeypatch.setattr(script, "WRONG", (0.3,))
    assert script.main(["--steps", "300", "--shadows", "4", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1]).values()
    assert set(found) == set(script.ATTACKS)
    assert found["membership_lira"]["auc"] > 0.6


def test_the_order_of_attacks_decides_the_exit_code(script) -> None:
    found = {name: {"auc": value} for name, value in zip(script.ATTACKS, (0.6, 0.7, 0.65), strict=True)}
    assert script.ordered(found)
    found["membership_rmia"]["auc"] = 0.6
    assert not script.ordered(found)


def test_without_data_it_says_what_to_set(script, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DPTRAIN_DATA", str(tmp_path))
    assert script.main([]) == 2
    assert "set DPTRAIN_DATA" in capsys.readouterr().err
