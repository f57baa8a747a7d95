"""A sweep as one thing: a family in MLflow, going on past failures, and continued with what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import QUICK, command, finish, order

from dptrain.cli import main as cli
from dptrain.cli import multirun
from dptrain.comparison.gather import Selection, gather
from dptrain.contracts import BrokenGuarantee, Budget, DoesNotApply, DptrainError, Tracker
from dptrain.pipeline import train
from dptrain.pipeline.experiment import Experiment
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import NoGuarantee
from dptrain.privacy.noise.cost import MOST_DRAWS
from dptrain.privacy.written import from_json, plan_of, plan_to_json, to_json
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.sweep import state as sweeps
from dptrain.sweep.cost import composed

pytestmark = pytest.mark.e2e

JOBS = (
    "-m", "privacy.epsilon=1,3", "+optimizer.weight_decay=0,1e30", "attack=[membership_loss]",
    "performance.threads=1", *QUICK,
)  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A sweep of four jobs, two of which fail: its folder, exit code, and what it said."""
    cwd = tmp_path_factory.mktemp("swept")
    code, out, err = finish(command(*JOBS, cwd=cwd))
    (folder,) = (cwd / "runs").glob("sweep_*")
    return folder, code, out + err


def test_the_other_jobs_go_on_past_one_that_fails(swept: tuple[Path, int, str]) -> None:
    folder, code, _ = swept
    assert code != 0
    assert len(list(folder.glob("*/report.json"))) == 2
    failed = sweeps.read_state(folder).failed
    assert len(failed) == 2
    assert all("training diverged" in failure.error for failure in failed.values())
    assert set(failed) < set(sweeps.read_state(folder).asked)
    assert len(sweeps.read_state(folder).asked) == 4
    assert sweeps.never_begun(folder) == {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow stands on
def test_the_runs_are_a_family_in_mlflow(swept: tuple[Path, int, str]) -> None:
    import mlflow

    folder = swept[0]
    client = mlflow.MlflowClient(f"sqlite:///{folder.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dptrain")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parent = sweeps.read_state(folder).parent
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent]
    assert sorted(run.info.status for run in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    above = next(run for run in found if run.info.run_id == parent)
    assert (above.info.run_name, above.info.status) == (folder.name, "FAILED")
    assert (above.data.metrics["jobs/finished"], above.data.metrics["jobs/failed"]) == (2, 2)
    assert {run.info.run_name[:9] for run in children} == {"epsilon=1", "epsilon=3"}
    assert all(
        "training diverged" in run.data.tags["error"] for run in children if run.info.status == "FAILED"
    )


def test_a_sweep_goes_on_with_what_is_missing(swept: tuple[Path, int, str]) -> None:
    folder = swept[0]
    before = {path.parent.name: path.stat().st_mtime for path in folder.glob("*/report.json")}
    code, out, _ = finish(command(*JOBS, f"sweep.resume={folder}", cwd=folder.parents[1]))
    assert code != 0  # two jobs still fail
    assert out.count("there already") == 2
    after = {path.parent.name: path.stat().st_mtime for path in folder.glob("*/report.json")}
    assert after == before
    assert len(list(folder.parent.glob("sweep_*"))) == 1


def test_the_second_job_takes_the_twin_of_the_first(swept: tuple[Path, int, str]) -> None:
    reports = sorted((read_json(path) for path in swept[0].glob("*/report.json")), key=lambda r: r["folder"])
    assert reports[0]["seconds"]["twin"] > 0
    assert reports[1]["seconds"]["twin"] == 0


def test_jobs_that_have_begun_count_whether_they_finish_or_not(
    tmp_path: Path, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    plan = make_plan_of(steps=100)
    spent = sweeps.spent_of(plan, delta=1e-5, draws=1000, unit="record")
    for name, spends in (("at_work", spent), ("failed", spent), ("not_private", None)):
        runs.start(tmp_path / name, order())
        sweeps.note_begun(tmp_path / name, spends)
    runs.remember(tmp_path / "failed", error="the disk is full")
    runs.start(tmp_path / "waiting", order())
    runs.start(tmp_path / "mine", order())
    sweeps.note_begun(tmp_path / "mine", spent)
    found = sweeps.spent_together(tmp_path / "mine", plan, 1e-5, draws=1000, unit="record")
    assert found["epsilon_together"] == composed([plan] * 3, 1e-5, draws=3000)
    assert (found["runs"], found["not_private"]) == (4, 1)


@pytest.mark.parametrize("told", [{}, {"draws": None}, {"draws": "many"}, {"draws": -1}])
def test_a_job_that_does_not_tell_its_noise_has_the_most_of_it(
    told: dict[str, Any], tmp_path: Path, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    plan = make_plan_of(steps=100)
    runs.start(tmp_path / "older", order())
    runs.remember(tmp_path / "older", begun={"plan": plan_to_json(plan), **told})
    found = sweeps.spent_together(tmp_path / "mine", plan, 1e-5, draws=1000, unit="record")
    assert found["epsilon_together"] == composed([plan] * 2, 1e-5, draws=MOST_DRAWS + 1000)
    assert sweeps.Spent(delta=1e-5, plan={}).draws == MOST_DRAWS


def test_a_job_that_ends_while_another_is_at_work_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Experiment.train

    def asked(seed: int) -> runs.Order:
        words = (
            f"seed={seed}",
            "tracking=none",
            *QUICK,
            "attack=[]",
            "control.enabled=false",
            "performance.threads=1",
        )
        return replace(order(*words, f"output={tmp_path}"), sweep=True)

    def meanwhile(experiment: Experiment, tracker: Tracker, folder: Path) -> Any:
        if experiment.config.seed == 1:
            cli.main(asked(2), tmp_path / "sweep_a")
        return train(experiment, tracker, folder)

    monkeypatch.setattr(Experiment, "train", meanwhile)
    cli.main(asked(1), tmp_path / "sweep_a")
    found = {}
    for path in (tmp_path / "sweep_a").glob(f"*/{runs.REPORT}"):
        found[runs.read(path.parent).config["seed"]] = from_json(read_json(path)["guarantee"])
    plans = [plan for each in found.values() if (plan := plan_of(each)) is not None]
    assert [found[seed].sweep.runs for seed in (1, 2)] == [2, 2]
    for seed in (1, 2):  # which differ in how many records they train on, and so in delta
        both = composed(plans, found[seed].delta, draws=sum(each.randomness.draws for each in found.values()))
        assert found[seed].sweep.epsilon_together == pytest.approx(both, rel=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "epsilon",
        "model_size",
        "training_time",
        "defence",
        "private_selection",
        "mechanism",
        "regularisation",
    ],
)
def test_each_named_sweep_composes(name: str) -> None:
    asked = order(f"+sweep={name}", recipe="medical_cnn")
    assert asked.config["sweep"]["resume"] is None


def test_a_sweep_ends_with_one_page_that_names_what_is_missing(swept: tuple[Path, int, str]) -> None:
    folder, _, said = swept
    page = (folder / "comparison.html").read_text()
    assert "comparison.html" in said
    assert page.count("training diverged") >= 2
    assert "no interval" in page  # one seed a point claims nothing


def test_a_job_is_found_by_its_words_in_any_order(tmp_path: Path) -> None:
    one = order("privacy.epsilon=1", "seed=2")
    runs.start(tmp_path / "a", one)
    assert sweeps.find(tmp_path, order("seed=2", "privacy.epsilon=1", f"output={tmp_path}")) == tmp_path / "a"
    assert sweeps.find(tmp_path, order("seed=3", "privacy.epsilon=1")) is None


def test_a_failure_is_remembered_until_it_is_tried_again(tmp_path: Path) -> None:
    asked = order("seed=2")
    sweeps.note_failure(tmp_path, asked, DptrainError("no"), 2)
    assert list(sweeps.read_state(tmp_path).failed) == ["seed=2"]
    sweeps.forget_failure(tmp_path, asked)
    assert sweeps.read_state(tmp_path).failed == {}


@pytest.mark.parametrize(
    ("asked", "finished", "crashed", "code"),
    [
        pytest.param(("dpsgd", "pate"), True, False, 0, id="one_of_those_asked_about_applies"),
        pytest.param(("dpsgd", "pate"), False, False, 2, id="none_applies"),
        pytest.param(("dpsgd", "pate"), True, True, 1, id="another_job_crashed"),
        pytest.param(("pate",), True, False, 2, id="no_other_was_asked_about"),
    ],
)
def test_a_mechanism_that_does_not_apply_is_an_answer_where_that_was_asked(
    asked: tuple[str, ...],
    finished: bool,
    crashed: bool,
    code: int,
    tmp_path: Path,
    swept: tuple[Path, int, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweeps.expect(tmp_path, [[f"mechanism={each}", "seed=1"] for each in asked])
    missed = order("mechanism=pate", "seed=1", "tracking=none")
    sweeps.note_failure(tmp_path, missed, DoesNotApply("mechanism=pate asks about public inputs"), 2)
    if crashed:
        sweeps.note_failure(tmp_path, order("mechanism=dpsgd", "seed=2"), ValueError("no"), 1)
    if finished:
        done = next(swept[0].glob(f"*/{runs.REPORT}")).parent
        shutil.copytree(done, tmp_path / "done")
    ended: object = 0
    try:
        multirun.conclude(tmp_path)
    except SystemExit as left:
        ended = left.code
    assert ended == code
    said = capsys.readouterr()
    where = said.out if len(asked) > 1 else said.err
    assert "mechanism=pate asks about public inputs" in where


def test_jobs_that_never_began_are_missed(tmp_path: Path) -> None:
    sweeps.expect(tmp_path, [["seed=1"], ["seed=2"]])
    sweeps.expect(tmp_path, [["seed=2", f"sweep.resume={tmp_path}"], ["seed=3"]])
    runs.start(tmp_path / "a", order("seed=1"))
    sweeps.note_failure(tmp_path, order("seed=3"), DptrainError("no data"), 2)
    assert sweeps.never_begun(tmp_path) == {"seed=2": "it never began", "seed=3": "no data"}
    stated = NoGuarantee(budget=Budget(epsilon=1.0, delta=1e-5)).statement()
    report = {
        "recipe": "quickstart",
        "guarantee": to_json(stated),
        "data": {"name": "blobs", "source": "made"},
        "utility": {"accuracy": 0.5, "auroc": 0.5},
        "leakage": [],
    }
    (tmp_path / "a" / runs.REPORT).write_text(json.dumps(report))
    found, missing = gather(Selection(folders=(tmp_path,)))
    assert [each.name for each in found] == ["a"]
    assert [(each.name, each.why) for each in missing] == [
        ("seed=2", "it never began"),
        ("seed=3", "no data"),
    ]


def test_a_broken_guarantee_is_not_forgotten_when_the_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise BrokenGuarantee("more than is proved")

    monkeypatch.setattr(train, "refuse_broken", broken)
    asked = order("tracking=none", *QUICK, "attack=[]", "control.enabled=false", f"output={tmp_path}")
    for _ in range(2):  # the second finds the report of the first
        cli.main(asked, tmp_path / "sweep_a")
        with pytest.raises(SystemExit) as caught:
            multirun.conclude(tmp_path / "sweep_a")
        assert caught.value.code == cli.BROKEN


def test_a_sweep_ends_where_its_jobs_could_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order("tracking=none")
    asked.config["device"] = "mps"  # of the machines that a scheduler sent the jobs to
    runs.start(tmp_path / "a", asked)
    multirun.conclude(tmp_path)
    assert capsys.readouterr().err == ""


def test_together_a_sweep_is_stated_at_a_delta_that_all_its_data_allow(
    tmp_path: Path, make_plan_of: Callable[..., DPSGDPlan]
) -> None:
    runs.start(tmp_path / "large", order("seed=2"))
    large = sweeps.spent_of(make_plan_of(units=60_000), delta=1e-6, draws=1000, unit="record")
    sweeps.note_begun(tmp_path / "large", large)
    small = make_plan_of(units=1000)
    found = sweeps.spent_together(tmp_path / "small", small, 1e-4, draws=1000, unit="record")
    assert found["delta"] == 1e-6
    assert found["epsilon_together"] == composed([small, make_plan_of(units=60_000)], 1e-6, draws=2000)
    assert sweeps.spent_together(tmp_path / "small", small, 1e-5, draws=1000, unit="record")["delta"] == 1e-5
