"""The parent run of a sweep: what its jobs say together, how they ended, and what failed."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparisons import write_sweep

from dptrain.comparison.compare import compare
from dptrain.comparison.gather import Selection
from dptrain.contracts import DptrainError
from dptrain.report.comparison.files import by_point, write_files
from dptrain.report.comparison.page import as_html
from dptrain.report.comparison.points import NONE, Comparison
from dptrain.runs import folder as runs
from dptrain.storage import write_text
from dptrain.sweep import state as sweeps
from dptrain.sweep import tracking as sweep_tracking
from dptrain.tracking import NOTE, PARENT, MLflow, NoTracking

pytestmark = pytest.mark.e2e


def compared(folder: Path) -> Comparison:
    return compare(Selection(folders=(folder,)), confidence=0.95, command="python -m dptrain.cli.compare")


def failing(*overrides: str) -> runs.Order:
    return runs.Order(recipe="invented", overrides=("recipe=invented", *overrides), config={}, sweep=True)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Comparison]:
    """A sweep of six jobs that were finished and one that never came to be: client of its store, folder."""
    top = tmp_path_factory.mktemp("family")
    folder = write_sweep(top / "sweep", epsilons=(1.0, 8.0))
    tracking = MLflow(uri=f"sqlite:///{top / 'mlflow.db'}")
    parent = sweeps.parent_run(folder, lambda: sweep_tracking.begin(tracking, folder))
    for job in sorted(folder.glob("*/run.json")):
        order = runs.read(job.parent)
        with tracking.open(sweep_tracking.job_name(order.overrides, "job"), job.parent) as child:
            child.tags({PARENT: str(parent)})
        runs.remember(job.parent, tracked_as=child.run_id)
    sweeps.note_failure(folder, failing("privacy.epsilon=-1", "seed=2"), DptrainError("must be above 0"), 2)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{top / 'mlflow.db'}")
    assert client.get_run(parent).info.status == "RUNNING"
    found, page = compared(folder), folder / "comparison.html"
    write_text(as_html(found), page)
    files = [page, *write_files(found, folder)]
    sweep_tracking.conclude(tracking, folder, found, files)
    sweep_tracking.conclude(tracking, folder, found, files)  # of a sweep that was resumed
    return client, folder, found


def test_a_family_has_every_job_and_those_that_failed_their_error(
    recorded: tuple[Any, Path, Comparison],
) -> None:
    client, folder, _ = recorded
    parent = sweeps.read_state(folder).parent
    found = client.search_runs([client.get_experiment_by_name("dptrain").experiment_id])
    children = {run.info.run_name: run for run in found if run.data.tags.get("mlflow.parentRunId") == parent}
    assert len(found) == 8
    assert sorted(run.info.status for run in children.values()) == ["FAILED", *6 * ["FINISHED"]]
    failed = children["epsilon=-1 seed=2"]
    assert failed.data.tags["error"] == "must be above 0"
    assert failed.data.params == {"privacy.epsilon": "-1", "seed": "2"}
    assert set(children) > {"epsilon=1 seed=1", "epsilon=8 seed=3"}


def test_the_parent_says_by_itself_what_came_of_it(recorded: tuple[Any, Path, Comparison]) -> None:
    client, folder, found = recorded
    run = client.get_run(sweeps.read_state(folder).parent)
    assert run.info.status == "FAILED"
    assert run.data.tags["jobs.finished"] == "6"
    assert run.data.tags["failed.1"] == "epsilon=-1 seed=2: must be above 0"
    assert "| ε = 1 |" in run.data.tags[NOTE]
    assert "must be above 0" in run.data.tags[NOTE]
    assert run.data.metrics["jobs/failed"] == 1
    history = {
        point.step: point.value for point in client.get_metric_history(run.info.run_id, "points/accuracy")
    }
    assert history == {n: point.accuracy.centre for n, point in enumerate(found.points, start=1)}
    assert run.data.metrics["points/epsilon"] == 8.0
    assert run.data.metrics["search/epsilon_together"] > 8.0
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id, "comparison")}
    assert artifacts == {
        f"comparison/{name}"
        for name in ("comparison.html", "comparison.json", "points.csv", "points.json", "figures")
    }
    figures = [each.path for each in client.list_artifacts(run.info.run_id, "comparison/figures")]
    assert "comparison/figures/membership_loss_auc.svg" in figures


def test_the_points_are_a_table_for_other_programs(recorded: tuple[Any, Path, Comparison]) -> None:
    _, folder, found = recorded
    rows = list(csv.DictReader((folder / "points.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["point"] for row in rows] == [point.label for point in found.points]
    assert [float(row["accuracy"]) for row in rows] == [point.accuracy.centre for point in found.points]
    assert rows[0]["seeds"] == "1 2 3"
    assert float(rows[1]["bound_membership_loss.tpr_at_fpr_0.01"]) > 0
    assert json.loads((folder / "comparison.json").read_text())["title"] == found.title


def test_figures_stand_alone_in_their_colours(recorded: tuple[Any, Path, Comparison]) -> None:
    _, folder, _ = recorded
    for path in (folder / "figures").glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert "var(" not in svg
        assert svg.count("<style>") == 1
        assert ".release" in svg


def test_points_without_a_guarantee_have_no_number_for_it(recorded: tuple[Any, Path, Comparison]) -> None:
    one, other = recorded[2].points
    columns = by_point(replace(recorded[2], points=(replace(one, status=NONE, epsilon=math.inf), other)))
    assert columns["epsilon"] == [None, other.epsilon]
    assert columns["bound_membership"][0] is None


def test_nothing_is_recorded_where_nothing_is(tmp_path: Path) -> None:
    assert sweeps.parent_run(tmp_path, lambda: sweep_tracking.begin(NoTracking(), tmp_path)) is None
    sweep_tracking.conclude(NoTracking(), tmp_path, None, [])


def test_jobs_are_called_by_what_varies(tmp_path: Path) -> None:
    same = ["recipe=a", "training.steps=100", "data.name=two words", "seed=1"]
    jobs = [
        [*same, f"privacy.epsilon={epsilon}", f"model.width={width}"]
        for epsilon in (1, 3)
        for width in (8, 9)
    ]
    sweeps.expect(tmp_path, jobs[:1])
    alone = sweep_tracking.job_name(jobs[0], "folder", sweep_tracking.shared(tmp_path))
    assert "steps=100" in alone, "nothing varies yet"
    sweeps.expect(tmp_path, jobs)
    names = [sweep_tracking.job_name(job, "folder", sweep_tracking.shared(tmp_path)) for job in jobs]
    assert names[0].endswith("epsilon=1 width=8")
    assert len(set(names)) == 4
    assert not any("steps" in name or "seed" in name for name in names)


def test_the_name_of_a_job_is_short() -> None:
    assert (
        sweep_tracking.job_name(["recipe=a", "+sweep=epsilon", "output=x", "tracking=none"], "folder")
        == "folder"
    )
    long = sweep_tracking.job_name([f"model.width={'9' * 300}"], "folder")
    assert len(long) == sweep_tracking.LONGEST
    assert long.endswith("…")
