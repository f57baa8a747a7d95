"""MLflow's own pages, served and in a real browser: runs compare there without anything of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page, needs_browser
from comparisons import write_sweep
from mlflow_pages import choose, press, serve, show, show_comparison, show_runs, wait
from support import order
from test_family import compared, failing

from dptrain.config import parse
from dptrain.contracts import DptrainError
from dptrain.pipeline import tracked
from dptrain.report.comparison.files import write_files
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.sweep import state as sweeps
from dptrain.sweep import tracking as sweep_tracking
from dptrain.tracking import PARENT, MLflow

pytestmark = [
    pytest.mark.e2e,
    needs_browser,
    pytest.mark.timeout(300),
]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A served sweep."""

    address: str
    experiment: str
    parent: str
    failed: str
    children: list[str]


def record(tracking: MLflow, folder: Path, parent: str) -> None:
    """The job in this folder as the pipeline records one: what was asked for, and numbers of its report."""
    asked = runs.read(folder)
    words = [each for each in asked.overrides if each.startswith(("privacy", "seed"))]
    with tracking.open(sweep_tracking.job_name(words, "job"), folder) as child:
        child.tags({PARENT: parent})
        child.params(tracked.params(parse(order(*words).config), "quickstart"))
        report = read_json(folder / runs.REPORT)
        for step in range(1, 4):
            child.metric("holdout/accuracy", report["utility"]["accuracy"] - 0.1 / step, step)
        child.metric("accuracy", report["utility"]["accuracy"])
        child.metric("epsilon", report["guarantee"]["epsilon"], 3)
        for line in report["leakage"]:
            child.metric(f"attack/{line['attack']}.{line['metric']}", line["value"])
    runs.remember(folder, tracked_as=child.run_id)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    import mlflow

    top = tmp_path_factory.mktemp("shown")
    folder = write_sweep(top / "sweep", seeds=2, epsilons=(1.0, 8.0))
    uri = f"sqlite:///{top / 'mlflow.db'}"
    tracking = MLflow(uri=uri)
    parent = str(sweeps.parent_run(folder, lambda: sweep_tracking.begin(tracking, folder)))
    for job in sorted(folder.glob("*/run.json")):
        record(tracking, job.parent, parent)
    sweeps.note_failure(folder, failing("privacy.epsilon=-1"), DptrainError("must be above 0"), 2)
    found = compared(folder)
    sweep_tracking.conclude(tracking, folder, found, write_files(found, folder))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("dptrain")
    assert experiment is not None
    every = client.search_runs([experiment.experiment_id])
    children = [run for run in every if run.info.run_id != parent]
    with serve(uri, top / "server.log") as address:
        yield Shown(
            address=address,
            experiment=experiment.experiment_id,
            parent=parent,
            failed=next(run.info.run_id for run in children if run.info.status == "FAILED"),
            children=[run.info.run_id for run in children if run.info.status == "FINISHED"],
        )


def says(page: Page, words: str) -> None:
    wait(page, f"document.body.innerText.replaceAll('\u00a0', ' ').includes({words!r})")


def test_parallel_coordinates_begin_with_what_was_swept(page: Page, shown: Shown) -> None:
    show_comparison(page, shown.address, shown.experiment, shown.children)
    axes = page.run("[...document.querySelectorAll('.parcoords .axis-title')].map(e => e.textContent)")
    assert axes[:2] == ["privacy.epsilon", "seed"]
    ticks = page.run("[...document.querySelectorAll('.parcoords .y-axis:first-of-type .tick text')].length")
    assert ticks > 2, "an axis of numbers, not of words"


def test_accuracy_against_epsilon_is_a_scatter_plot(page: Page, shown: Shown) -> None:
    show_comparison(page, shown.address, shown.experiment, shown.children)
    press(page, "[role=tab]", "Scatter Plot")
    choose(page, "x-axis-selector", "privacy.epsilon")
    choose(page, "y-axis-selector", "attack/membership_loss.auc")
    plot = "document.querySelector('.js-plotly-plot')"
    wait(page, f"{plot}.layout.yaxis.title.text === 'attack/membership_loss.auc'")
    (drawn,) = page.run(f"{plot}.data.map(each => ({{x: each.x, y: each.y}}))")
    assert sorted(map(float, drawn["x"])) == [1.0, 1.0, 8.0, 8.0]
    assert all(0 < value < 1 for value in drawn["y"])
    assert page.run(f"{plot}._fullLayout.xaxis.type") == "linear", "an axis of numbers, not of words"


def test_children_stand_below_their_parent_and_charts_in_sections(page: Page, shown: Shown) -> None:
    show_runs(page, shown.address, shown.experiment, charts=True, height=1600)
    for words in ("epsilon=1 seed=1", "epsilon=8 seed=2", "epsilon=-1"):
        says(page, words[:9])
    for section in (r"attack\s*\(4\)", r"points\s*\(\d+\)", r"holdout\s*\(1\)"):
        wait(page, f"/{section}/.test(document.body.textContent)")


def test_the_parent_tells_what_came_of_the_sweep(page: Page, shown: Shown) -> None:
    show(page, f"{shown.address}/#/experiments/{shown.experiment}/runs/{shown.parent}", height=1400)
    says(page, "4 jobs finished, 1 failed.")
    says(page, "points/accuracy")
    show(
        page,
        f"{shown.address}/#/experiments/{shown.experiment}/runs/{shown.parent}/artifacts/comparison/figures/"
        "membership_loss_auc.svg",
        height=900,
    )
    wait(page, "[...document.images].some(image => image.src.startsWith('blob:') && image.width > 100)")


def test_a_job_that_failed_says_why(page: Page, shown: Shown) -> None:
    show(page, f"{shown.address}/#/experiments/{shown.experiment}/runs/{shown.failed}")
    says(page, "Failed: must be above 0")
