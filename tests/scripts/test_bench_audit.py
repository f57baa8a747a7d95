from __future__ import annotations

import json
from types import ModuleType

import pytest
import support
import torch

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return support.script("bench_audit")


def test_the_last_line_holds_every_measured_number(script, capsys, monkeypatch) -> None:
    monkeypatch.setattr(script, "CANARIES", 2000)
    options = ("--repetitions", "3", "--trainings", "16", "--trials", "300", "--json")
    assert script.main(list(options)) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"gaussian", "dirac", "false_alarm", "seconds"}
    assert list(found["gaussian"]) == ["0.5", "1", "2", "4"]
    for line in found["gaussian"].values():
        assert line["steinke"] <= line["certified"] < line["theory"]
    assert found["dirac"]["theory"] == pytest.approx(2.0, abs=2e-3)  # less what noise may cost
    assert 0.55 < found["dirac"]["certified_mean"] < 1.2
    assert set(found["false_alarm"]) >= {
        "steinke",
        "gaussian",
        "p_value_of_guarantee",
        "noise",
        "permutation",
    }
    assert found["seconds"] > 0


def test_without_json_it_prints_a_table_only(script, capsys, monkeypatch) -> None:
    monkeypatch.setattr(script, "CANARIES", 500)
    assert script.main(["--repetitions", "1", "--trainings", "8", "--trials", "50"]) == 0
    told = capsys.readouterr().out
    assert "8 a coordinate" in told
    assert "{" not in told


def test_too_much_certified_or_too_many_alarms_are_complained_of(script, capsys) -> None:
    line, calm = {"certified": 1.0, "theory": 1.0}, {"steinke": 0.05}
    alone = {"certified_mean": 0.8, "theory": 2.0}
    assert not script.complain({"1": line}, alone, calm, 1000)
    assert script.complain({"1": line | {"certified": 1.06}}, alone, calm, 1000)
    assert script.complain({"1": line}, alone | {"certified_mean": 2.2}, calm, 1000)
    assert script.complain({"1": line}, alone, {"steinke": 0.1}, 1000)
    assert "steinke: 10.00% false alarms" in capsys.readouterr().err


def test_scores_of_dirac_canaries_tell_members_and_share_a_coordinate(script) -> None:
    plan, rng = script.dirac_guarantee().plan, torch.Generator().manual_seed(0)
    scores, members = script.dirac(plan, 1, rng)
    assert scores.shape == members.shape == (1000,)
    assert scores[members].mean() > 0 > scores[~members].mean()  # log-likelihood ratios: Gibbs' inequality
    scores, members = script.dirac(plan, 8, rng)
    assert (scores.view(1000, 8) == scores.view(1000, 8)[:, :1]).all()
    assert scores[members].mean() > scores[~members].mean()


@pytest.mark.parametrize("option", ["--repetitions", "--trainings", "--trials"])
def test_nothing_to_do_is_refused(script, capsys, option) -> None:
    with pytest.raises(SystemExit):
        script.main([option, "0"])
    assert f"{option} 0 must be at least 1" in capsys.readouterr().err
