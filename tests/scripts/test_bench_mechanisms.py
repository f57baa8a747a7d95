"""The table of mechanisms is made of the runs of one sweep."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import support

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def script(measured: ModuleType) -> ModuleType:  # noqa: ARG001 - the script imports it by name
    return support.script("bench_mechanisms")


def keep(folder: Path, name: str, mechanism: str, auroc: float, auc: float) -> None:
    """A finished run of this mechanism at epsilon 1."""
    membership = {
        "metric": "auc",
        "value": auc,
        "low": auc - 0.05,
        "high": auc + 0.05,
        "control": 0.9,
        "bound": 0.6,
    }
    report = {
        "utility": {"auroc": auroc},
        "seconds": {"train": 2.0},
        "guarantee": {"interface": "weights", "tpr_at_fpr": {"0.01": 0.0197}},
        "leakage": [membership, {"metric": "tpr_at_fpr_0.01", "value": 1.0}],
    }
    (folder / name).mkdir(parents=True)
    (folder / name / "run.json").write_text(
        json.dumps({"overrides": [f"mechanism={mechanism}", "privacy.epsilon=1", "attack=[membership_loss]"]})
    )
    (folder / name / "report.json").write_text(json.dumps(report))


def test_the_best_mechanism_of_an_epsilon_comes_first_with_what_was_worst_of_its_leakage(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, "a", "dpsgd", 0.91, 0.51)
    keep(tmp_path, "b", "dpsgd", 0.93, 0.55)
    keep(tmp_path, "c", "sufficient_statistics", 0.95, 0.52)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / script.FIGURE).write_text("<svg/>")
    figure = tmp_path / "mechanisms.svg"
    assert script.main(["--folder", str(tmp_path), "--figure", str(figure)]) == 0
    first, second = capsys.readouterr().out.splitlines()[2:]
    proved = "2 | weights | 1.97 %"
    assert first.startswith(f"| 1 | `sufficient_statistics` | 0.950 [0.950, 0.950] | {proved} | 0.520")
    assert second.endswith(f"0.920 [0.910, 0.930] | {proved} | 0.550 [0.500, 0.600] | 0.900 | 0.600 |")
    assert figure.read_text() == "<svg/>"
    assert script.main(["--folder", str(tmp_path / "unfinished")]) == 2
