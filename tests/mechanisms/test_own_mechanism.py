"""A mechanism of one's own, in files of one's own: trained, attacked through what it offers, reported.

Its plan is not DP-SGD's, and its release has no weights (`noisy_counts.py`, `conf/mechanism/`).
"""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from support import order

from dptrain.assembly.components import assemble
from dptrain.cli import main as cli
from dptrain.config import parse
from dptrain.contracts import Access, ConfigError, Plan, Records, Release, Targets
from dptrain.evaluation.stage import Subject
from dptrain.pipeline import verify
from dptrain.privacy import filter as privacy_filter
from dptrain.privacy.written import from_json, plan_from_json, plan_to_json
from dptrain.report.document import read_json
from dptrain.report.statement_schema import schema
from dptrain.runs import folder as runs
from dptrain.sweep import budget as sweep_budget
from dptrain.sweep.cost import composed

pytestmark = pytest.mark.run

HERE = Path(__file__).parent
OWN = ("mechanism=noisy_counts", "attack=[membership_loss]", "privacy.epsilon=1", "training.steps=3")


@pytest.fixture(scope="module", autouse=True)
def own() -> Iterator[ModuleType]:
    """The mechanism's module, which can be imported as one beside the user's YAML can."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield importlib.import_module("noisy_counts")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and what was seen at the terminal."""
    here, shown = tmp_path_factory.mktemp("own"), io.StringIO()
    words = (*OWN, f"output={here}/runs", f"tracking.uri=sqlite:///{here}/mlflow.db", "performance.threads=1")
    with redirect_stdout(shown):
        cli.main(order(*words, config_dir=HERE / "conf"), None)
    (report,) = (here / "runs").glob(f"*/{runs.REPORT}")
    return report.parent, shown.getvalue()


@pytest.fixture
def folder(finished: tuple[Path, str]) -> Path:
    return finished[0]


@pytest.fixture
def plan(own: ModuleType) -> Plan:
    found: Plan = own.CountsPlan(units=1000, decay=0.5, classes=3)
    return found


# ---------------------------------------------------------------------- the run


def test_it_is_trained_and_stated_by_its_own_privacy_loss(folder: Path) -> None:
    report = read_json(folder / runs.REPORT)
    stated = from_json(report["guarantee"])
    assert report["mechanism"] == "NoisyCounts"
    assert report["utility"]["accuracy"] > 2 * report["floor_accuracy"]
    assert 0.99 < stated.epsilon <= 1.0
    assert stated.tpr_at_fpr["0.01"] == pytest.approx(0.01 * math.e, rel=1e-3)
    assert stated.noise_multiplier is stated.steps is stated.sampling_run is None
    assert dict(stated.plan)["noise"] == "two-sided geometric, decay 1"
    assert stated.released == "predictions made of noisy counts"
    assert stated.interface == "confidences"  # whatever `release.output` asks for
    assert not (folder / runs.WEIGHTS).exists()


def test_it_is_attacked_through_what_it_offers_beside_its_control_and_its_bound(folder: Path) -> None:
    report = read_json(folder / runs.REPORT)
    assert report["not_run"] == []
    assert {line["attack"] for line in report["leakage"]} == {"membership_loss"}
    rate = next(line for line in report["leakage"] if "tpr" in line["metric"])
    assert rate["interface"] == "confidences"
    assert rate["control"] is not None
    assert rate["bound"] == pytest.approx(math.e * rate["details"]["fpr_upper"], rel=1e-3)
    assert rate["low"] <= rate["bound"]


def test_an_attack_on_weights_is_refused_before_training(tmp_path: Path) -> None:
    asked = order(*OWN, "attack=[class_inversion]", f"output={tmp_path}", config_dir=HERE / "conf")
    with pytest.raises(ConfigError, match=r"attack=class_inversion needs weights, .* does not offer"):
        assemble(parse(asked.config))


def test_every_document_says_what_it_is(finished: tuple[Path, str]) -> None:
    folder, shown = finished
    said = {name: (folder / name).read_text() for name in ("report.md", "report.html", "model_card.md")}
    for name, text in said.items():
        assert "two-sided geometric, decay 1" in text, name
        assert "predictions made of noisy counts" in text, name
        assert "noise multiplier" not in text, name
        assert "sampling" not in text.replace("noise and sampling", "").replace("Noise and sampling", ""), (
            name
        )
        assert "SHA-256 begins" not in text, name
    assert "two-sided geometric, decay 1" in shown
    assert "16 cells of 10 classes" in shown
    assert "given away" in shown
    assert "attacks on weights" not in shown
    document = json.loads((folder / "statement.json").read_text())
    assert list(Draft202012Validator(schema()).iter_errors(document)) == []
    assert document["mechanism"]["plan"][0] == ["noise", "two-sided geometric, decay 1"]
    assert document["constants"]["declared"] == []
    assert document["hashes"]["weights"] is None


def test_it_is_verified(folder: Path) -> None:
    _, checks = verify.run(parse(order("task=verify", f"release={folder}").config))
    assert [each.name for each in checks if each.holds is False] == []
    held = {each.name for each in checks if each.holds}
    assert held >= {"configuration", "delta", "rounding", "model card", "report"}
    assert {each.name: each.said for each in checks}["weights"] == "none are released"


def test_it_is_found_in_mlflow(folder: Path) -> None:
    import mlflow

    client: Any = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder.parents[1]}/mlflow.db")
    run = client.get_run(runs.read_state(folder).tracked_as)
    assert run.data.params["mechanism"] == "noisy_counts.NoisyCounts"
    assert 0.99 < run.data.metrics["guarantee/epsilon"] <= 1.0
    assert "guarantee/noise_multiplier" not in run.data.metrics
    assert any(name.startswith("attack/membership_loss") for name in run.data.metrics)


def test_it_cannot_be_attacked_again_without_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(order("task=audit", f"release={folder}", f"output={tmp_path}"), None)
    assert ended.value.code == cli.FAILED
    said = " ".join(capsys.readouterr().err.split())
    assert "its mechanism releases no weights" in said
    assert "finish the run first" not in said, "it is finished"
    assert "take one whose mechanism releases weights" in said


# ---------------------------------------------------------------------- its parts


def test_a_sweep_counts_its_plan_as_any_other(tmp_path: Path, plan: Plan) -> None:
    assert plan_from_json(plan_to_json(plan)) == plan
    assert composed([plan, plan], 1e-9, draws=200) == pytest.approx(1.0, abs=1e-3)
    for job in "ab":
        sweep_budget.reserve(tmp_path, job, plan, delta=1e-9, draws=100, unit="record", max_epsilon=1.01)
    with pytest.raises(ConfigError, match="would bring the sweep"):
        sweep_budget.reserve(tmp_path, "c", plan, delta=1e-9, draws=100, unit="record", max_epsilon=1.01)


def test_a_plan_is_read_only_where_its_mechanism_is_at_hand(plan: Plan) -> None:
    assert plan_from_json({**plan_to_json(plan), "kind": "elsewhere.CountsPlan"}) is None
    assert plan_from_json({"kind": "subprocess.Popen", "args": ["false"]}) is None


def test_a_search_led_by_results_needs_an_event(plan: Plan) -> None:
    with pytest.raises(ConfigError, match=r"has no `event\(\)`"):
        privacy_filter.spent([plan], 1e-5, 16.0, draws=100)


def test_the_floor_of_a_release_without_weights_is_an_interface_that_knows_nothing() -> None:
    blank = Records(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    targets = Targets(
        classes=("a", "b", "c", "d"), shape=(1, 8, 8), bounds=(0.0, 1.0), mean=(0.5,), background=blank
    )
    release = Release(predictions=lambda inputs: torch.eye(4)[: len(inputs)])
    floor = Subject(release=release, targets={"one": targets}).untrained(0).release
    assert torch.equal(floor.predict(blank.inputs), torch.full((2, 4), 0.25))


def test_a_release_may_answer_with_labels_alone() -> None:
    release = Release(labels=lambda inputs: inputs.flatten(1).argmax(1))
    interface = release.queries(budget=3)
    assert release.offers == {Access.LABELS}
    assert interface.labels(torch.eye(3)).tolist() == [0, 1, 2]
    assert interface.left == 0
