"""Sweeps whose jobs run side by side, in processes of a launcher; and searches in which results choose."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import joblib
import pytest
import yaml
from support import QUICK, finish, interpreter, order

from dptrain import tracking
from dptrain.cli import main as cli
from dptrain.report.document import read_json
from dptrain.runs import folder as runs
from dptrain.sweep import state as sweeps

pytestmark = pytest.mark.e2e

SMALL = ("attack=[]", "control.enabled=false", "tracking=none", *QUICK)
COUNTING = """
import os
from pathlib import Path

import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, shape, num_classes):
        Path(f"threads_{os.getpid()}").write_text(str(torch.get_num_threads()))
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))
"""


def needs(package: str) -> pytest.MarkDecorator:
    """Skip where a launcher or sweeper is not installed."""
    missing = not any(metadata.distributions(name=package))
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


JOBLIB = needs("hydra-joblib-launcher")
SUBMITIT = needs("hydra-submitit-launcher")
OPTUNA = needs("hydra-optuna-sweeper")
RAY = needs("hydra-ray-launcher")


# ------------------------------------------------------------------ local processes


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Four jobs, two at a time, in a new tracking store; two fail: folder, exit code, what was said."""
    cwd = tmp_path_factory.mktemp("swept")
    (cwd / "counting.py").write_text(COUNTING)
    (cwd / "own" / "model").mkdir(parents=True)
    (cwd / "own" / "model" / "counting.yaml").write_text("_target_: counting.Net\n")
    free = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    started = interpreter(
        "--config-dir=own", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=counting",
        "privacy.epsilon=1,3", "+optimizer.weight_decay=0,1e30", "attack=[membership_loss]", *QUICK,
        cwd=cwd, env={**free, "PYTHONPATH": os.pathsep.join([str(cwd), free.get("PYTHONPATH", "")])},
    )  # fmt: skip
    code, out, err = finish(started)
    (folder,) = (cwd / "runs").glob("sweep_*")
    return folder, code, out + err


@JOBLIB
def test_a_job_that_fails_stops_no_other_and_is_noted(swept: tuple[Path, int, str]) -> None:
    folder, code, said = swept
    assert code == cli.FAILED
    assert len(list(folder.glob("*/report.json"))) == 2, said
    failed = sweeps.read_state(folder).failed
    assert len(failed) == 2
    assert all("training diverged" in failure.error for failure in failed.values())


@JOBLIB
def test_each_job_has_its_own_folder_and_the_sweep_one_end(swept: tuple[Path, int, str]) -> None:
    folder, _, said = swept
    assert len(list(folder.glob("*/run.json"))) == 4
    assert (folder / "comparison.html").exists()
    assert said.count("comparison.html") == 1


@JOBLIB
def test_jobs_that_begin_together_train_the_twin_once(swept: tuple[Path, int, str]) -> None:
    seconds = [read_json(path)["seconds"]["twin"] for path in swept[0].glob("*/report.json")]
    assert len(list(swept[0].parent.glob("cache/twin_*.pt"))) == 1
    assert [each > 0 for each in sorted(seconds)] == [False, True]


@JOBLIB
def test_the_jobs_divide_the_cores(swept: tuple[Path, int, str]) -> None:
    counted = [int(path.read_text()) for path in swept[0].parents[1].glob("threads_*")]
    assert len(counted) == 2, "one process for each of the jobs at a time"
    assert set(counted) == {max(1, joblib.cpu_count() // 2)}


@JOBLIB
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow stands on
def test_writers_side_by_side_make_one_family(swept: tuple[Path, int, str]) -> None:
    folder = swept[0]
    parent = sweeps.read_state(folder).parent
    children = tracking.read_runs(f"sqlite:///{folder.parents[1] / 'mlflow.db'}", parents=[parent])
    assert sorted(run.status for run in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


@JOBLIB
def test_an_interrupted_sweep_says_how_it_goes_on(tmp_path: Path) -> None:
    started = interpreter(
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2", *SMALL, "training.steps=5000",
        cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    for _ in ticks(120):
        if len(list(tmp_path.glob("runs/*/*/run.json"))) == 2:
            break
    os.killpg(started.pid, signal.SIGINT)
    code, _, err = finish(started)
    assert code == cli.INTERRUPTED
    (folder,) = tmp_path.glob("runs/sweep_*")
    # By the sweep, and not by each job: joblib kills those that are still at their last words.
    assert f"go on with the same command and sweep.resume=runs/{folder.name}\n" in err
    assert "Traceback" not in err
    assert len(sweeps.jobs(folder)) == 2


# ------------------------------------------------------------------ Slurm, by its local twin


@SUBMITIT
def test_a_job_that_is_put_back_in_the_queue_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    started = interpreter(
        "-m", "hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1", *SMALL, "training.steps=60",
        "performance.checkpoint_seconds=0", cwd=tmp_path,
    )  # fmt: skip
    for _ in ticks(120):
        if list(tmp_path.glob("runs/*/*/checkpoint.pt")):
            break
    (worker,) = processes_in(tmp_path, "submitit.core._submit")
    os.kill(worker, signal.SIGUSR2)  # what Slurm sends before it takes the machine away
    code, _, err = finish(started)
    assert code == 0, err
    (log,) = tmp_path.glob("runs/*/.submitit/*/*_log.out")
    assert "Requeued job" in log.read_text()
    (written,) = tmp_path.glob("runs/*/*/report.json")
    assert read_json(written)["guarantee"]["steps"] == 60
    assert len(list(tmp_path.glob("runs/*/*/run.json"))) == 1
    assert runs.read(written.parent).config["performance"]["threads"] == 1


def ticks(seconds: float) -> Iterator[None]:
    """Moments to look again at what another process does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.05)
    raise AssertionError(f"nothing came of it in {seconds:g} seconds")


def processes_in(folder: Path, word: str) -> list[int]:
    """The processes in a folder whose command line holds this word."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if each.joinpath("cwd").resolve() == folder and word in each.joinpath("cmdline").read_text():
                found.append(int(each.name))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


# ------------------------------------------------------------------ Ray


@RAY
def test_jobs_run_on_a_local_ray_cluster(tmp_path: Path) -> None:
    started = interpreter("-m", "hydra/launcher=ray", "privacy.epsilon=1,3", *SMALL, cwd=tmp_path)
    code, _, err = finish(started)
    assert code == 0, err
    assert len(list(tmp_path.glob("runs/*/*/report.json"))) == 2


# ------------------------------------------------------------------ a search in which results choose


@OPTUNA
def test_a_search_ends_where_its_budget_does_and_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    asked = ("+sweep=search", "sweep.max_epsilon=5.5", "hydra.sweeper.n_trials=3", *SMALL)
    code, out, err = finish(interpreter(*asked, cwd=tmp_path))
    assert code == cli.FAILED
    assert "trainings counted: 2" in out
    assert "it is not begun" in err
    (folder,) = tmp_path.glob("runs/sweep_*")
    reports = {path: read_json(path) for path in folder.glob("*/report.json")}
    assert len(reports) == len(list(folder.glob("*_quickstart*"))) == 2, "what is refused leaves nothing"
    together = [report["guarantee"]["sweep"]["epsilon_counted"] for report in reports.values()]
    assert max(together) <= 5.5
    scores = [report["holdout_by_step"][-1][1] for report in reports.values()]
    assert yaml.safe_load((folder / "optimization_results.yaml").read_text())["best_value"] == max(scores)

    code, out, _ = finish(interpreter(*asked, f"sweep.resume={folder}", cwd=tmp_path))
    assert code == cli.FAILED
    assert out.count("there already") == 2
    assert {path: read_json(path) for path in folder.glob("*/report.json")} == reports


@OPTUNA
def test_a_search_without_a_budget_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    code, _, err = finish(
        interpreter("-m", "hydra/sweeper=optuna", "optimizer.lr=interval(0.1,1)", *SMALL, cwd=tmp_path)
    )
    assert code == cli.FAILED
    assert err.count("error  sweep.max_epsilon=null") == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ what jobs share


def test_what_is_being_done_is_not_done_twice(tmp_path: Path) -> None:
    asked, at_work, most = order("seed=2"), 0, 0

    def work() -> None:
        nonlocal at_work, most
        with sweeps.alone(tmp_path, asked):
            at_work += 1
            most = max(most, at_work)
            time.sleep(0.02)
            at_work -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_one_process_at_a_time_begins_with_a_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    begun = threading.Event()

    def begin() -> None:
        with tracking.MLflow(uri=uri).open("a", tmp_path):
            begun.set()

    begin()  # what takes long is done the first time
    begun.clear()
    with tracking.connection.alone_with(uri):
        thread = threading.Thread(target=begin)
        thread.start()
        assert not begun.wait(1.0)
    thread.join()
    assert begun.is_set()
