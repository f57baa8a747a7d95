"""Tracking: what is recorded can be found again, and a lost store is told in seconds."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import requests
import torch
from support import order
from torch import Tensor, nn

from dptrain import contracts, installed
from dptrain.config import parse
from dptrain.contracts import ConfigError, DptrainError, Tracker
from dptrain.pipeline import tracked
from dptrain.tracking import (
    CSV,
    NOTE,
    MLflow,
    MLflowRun,
    NoTracking,
    TensorBoard,
    connection,
    flatten,
    tensorboard,
)

pytestmark = pytest.mark.e2e

torch.set_num_threads(1)


class Branching(nn.Module):
    """Its path depends on its input, which torch.export cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs) if inputs.sum() > 0 else self.layer(-inputs)
        return out


class Alone(nn.Module):
    """It treats a record without company in another way, of which torch.export makes a graph of no other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs) if len(inputs) > 1 else self.layer(inputs) + 0.0
        return out


class Row(nn.Module):
    """A loop over records, of which torch.export makes one over two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([self.layer(inputs[row]) for row in range(int(inputs.shape[0]))])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an MLflow database, made once since that takes a second."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with MLflow(uri="sqlite:///mlflow.db", experiment="first").open("first", folder):
            pass
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the default store lies."""
    monkeypatch.chdir(database)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return database


@pytest.fixture
def client(here: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")


def test_a_run_is_recorded_in_the_current_folder(here: Path, client: Any) -> None:
    figure = here / "figure.png"
    figure.write_bytes(b"png")
    with MLflow().open("cnn", here / "out") as run:
        run.params({"privacy": {"epsilon": 3.0, "unit": "record"}, "training": {"steps": 600}})
        run.params({f"many.{i}": i for i in range(150)})
        run.tags({"guarantee": "void"})
        for step in range(1200):
            run.metric("epsilon", step / 100, step)
        run.metric("epsilon", float("inf"), 1200)
        run.artifact(figure, "figures")
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "cnn"
    assert client.get_experiment(found.info.experiment_id).name == "dptrain"
    assert found.data.params["privacy.epsilon"] == "3.0"
    assert found.data.params["training.steps"] == "600"
    assert len(found.data.params) == 153
    assert found.data.tags["guarantee"] == "void"
    assert found.data.tags["folder"] == str(here / "out")
    history = client.get_metric_history(run.run_id, "epsilon")
    assert [(point.step, point.value) for point in history][:2] == [(0, 0.0), (1, 0.01)]
    assert len(history) == 1200
    assert [entry.path for entry in client.list_artifacts(run.run_id, "figures")] == ["figures/figure.png"]
    assert found.info.artifact_uri.startswith(str(here / "mlruns"))
    assert sorted(entry.name for entry in here.iterdir()) == ["figure.png", "mlflow.db", "mlruns"]


def failing(
    error: type[BaseException], work: Callable[[MLflowRun], None], match: str | None = None
) -> MLflowRun:
    """The tracker of a run whose work raises this error."""
    opened: list[MLflowRun] = []

    def run() -> None:
        with MLflow().open("cnn", Path("out")) as tracker:
            opened.append(tracker)
            work(tracker)

    with pytest.raises(error, match=match):
        run()
    return opened[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (DptrainError, "FAILED")],
)
@pytest.mark.usefixtures("here")
def test_how_a_run_ended_is_recorded(client: Any, error: type[BaseException], status: str) -> None:
    def work(run: MLflowRun) -> None:
        run.metric("loss", 1.0)
        raise error("stop")

    run = failing(error, work)
    assert client.get_run(run.run_id).info.status == status
    assert client.get_run(run.run_id).data.metrics == {"loss": 1.0}


@pytest.mark.usefixtures("here")
def test_a_resumed_run_goes_on_in_the_same_place(client: Any) -> None:
    tracking = MLflow()

    def work(run: MLflowRun) -> None:
        run.params({"seed": 1, "device": "cuda"})
        run.metric("epsilon", 0.5, 1)
        raise KeyboardInterrupt

    run = failing(KeyboardInterrupt, work)
    with tracking.open("cnn", Path("out"), run.run_id) as again:
        assert again.run_id == run.run_id
        assert client.get_run(run.run_id).info.status == "RUNNING"
        again.params({"seed": 1, "device": "cpu", "new": True})
        again.metric("epsilon", 0.7, 2)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "1", "device": "cuda", "new": "True"}
    assert len(client.get_metric_history(run.run_id, "epsilon")) == 2


@pytest.mark.usefixtures("here")
def test_a_run_that_is_not_there_cannot_be_resumed() -> None:
    missing = "0123456789abcdef0123456789abcdef"
    with pytest.raises(DptrainError, match=rf"tracking\.uri=.*{missing}.*tracking=none"):
        MLflow().open("cnn", Path("out"), missing).__enter__()


@pytest.mark.parametrize("uri", ["sqlite:///{}", "postgresql+psycopg://u:secret@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_reached_is_asked_once(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DptrainError, match=r"tracking\.uri=.* cannot be used") as refused:
        MLflow(uri=uri.format(tmp_path)).open("cnn", Path("out")).__enter__()
    assert "secret" not in str(refused.value)


@pytest.mark.usefixtures("here")
def test_a_deleted_experiment_is_named(client: Any) -> None:
    identity = client.create_experiment("gone")
    client.delete_experiment(identity)
    with pytest.raises(DptrainError, match=rf"tracking\.experiment=gone .*--experiment-id {identity}"):
        MLflow(experiment="gone").open("cnn", Path("out")).__enter__()


def kept(network: nn.Module, blank: Tensor, **changes: Any) -> contracts.Served:
    """A model of arrays, as the pipeline hands it over."""
    values: dict[str, Any] = {
        "answers": network, "blank": blank, "names": (), "raw": None, "metadata": {}, "verdict": "passed",
    }  # fmt: skip
    return contracts.Served(**{**values, **changes})


def test_jobs_that_begin_together_name_the_same_data(here: Path) -> None:
    tracking = MLflow(uri=f"sqlite:///{here / 'mlflow.db'}", experiment="together")
    with ExitStack() as opened:
        trackers = [opened.enter_context(tracking.open(f"job {job}", Path("out"))) for job in range(4)]
        with ThreadPoolExecutor(len(trackers)) as jobs:
            for name in map(str, range(10)):  # of each the store's first look finds none
                start = Barrier(len(trackers))
                for told in [jobs.submit(_name_data, tracker, name, start) for tracker in trackers]:
                    told.result()


def _name_data(tracker: Tracker, name: str, start: Barrier) -> None:
    start.wait()
    tracker.data(name, {"train": 60})


def test_the_model_can_be_loaded_and_served(here: Path, client: Any) -> None:
    import mlflow

    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)).requires_grad_(
        False
    )
    tracking = MLflow(uri=f"sqlite:///{here / 'mlflow.db'}", experiment="models", register="cnn")
    with tracking.open("cnn", Path("out")) as run:
        run.params({"seed": 1})
        run.metric("holdout/accuracy", 0.5, 3)
        run.data("squares", {"train": 60, "test": 20})
        run.model(kept(network, torch.zeros(2, 1, 8, 8), metadata={"guarantee": "At most twice."}))
        run.metric("accuracy", 0.75)
    assert mlflow.get_tracking_uri() == f"sqlite:///{here / 'mlflow.db'}"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    from mlflow.pyfunc.scoring_server import _parse_json_data  # whose imports warn unless they were silenced

    inputs = torch.rand(5, 1, 8, 8)
    served = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert served.metadata.metadata["guarantee"] == "At most twice."
    request = json.dumps({"inputs": inputs.tolist()})
    parsed = _parse_json_data(request, served.metadata, served.metadata.get_input_schema())
    torch.testing.assert_close(torch.tensor(served.predict(parsed.data)), network(inputs))
    requirements = Path(mlflow.pyfunc.get_model_dependencies(f"runs:/{run.run_id}/model"))
    names = [line.split("==")[0] for line in requirements.read_text(encoding="utf-8").split()]
    assert names == ["mlflow", "torch", "numpy", "pandas"]
    experiment = client.get_experiment_by_name("models").experiment_id
    (model,) = client.search_logged_models([experiment])
    assert [(each.key, each.value, each.dataset_name) for each in model.metrics] == [
        ("accuracy", 0.75, "squares")
    ]
    (used,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert json.loads(used.dataset.profile) == {"train": 60, "test": 20}
    version = client.get_model_version_by_alias("cnn", "passed")
    assert (version.run_id, version.source) == (run.run_id, f"models:/{model.model_id}")
    assert version.description == "At most twice."


def test_a_model_that_must_not_be_passed_on_has_no_version(here: Path, client: Any) -> None:
    tracking = MLflow(uri=f"sqlite:///{here / 'mlflow.db'}", register="broken")
    with tracking.open("cnn", Path("out")) as run:
        run.model(kept(nn.Linear(4, 2), torch.zeros(2, 4), verdict=None))
    assert client.search_model_versions("name='broken'") == []


def test_a_model_that_this_code_or_this_torch_cannot_read_says_so(tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    from dptrain.tracking.served import FORMAT, ServedModel  # which imports mlflow

    settings = {
        "format": FORMAT,
        "raw": None,
        "names": [],
        "integer_inputs": {},
        "torch": "99.0",
        "dptrain": "9.0",
    }
    (tmp_path / "model.json").write_text(json.dumps({**settings, "format": FORMAT + 1}), encoding="utf-8")
    with pytest.raises(MlflowException, match=rf"of format {FORMAT + 1}, .* reads up to {FORMAT}; log it"):
        ServedModel(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "model.pt2").write_bytes(b"of a later torch")
    with pytest.raises(MlflowException, match=r"written by torch 99\.0 and dptrain 9\.0 .*; install"):
        ServedModel(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("architecture", [Branching, Alone, Row])
def test_a_model_that_cannot_be_exported_is_pickled(
    architecture: type[nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    network = architecture().requires_grad_(False)
    with MLflow().open("cnn", Path("out")) as run:
        run.model(kept(network, torch.zeros(2, 4)))
    assert capfd.readouterr() == ("", "")
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    for inputs in (torch.rand(1, 4), torch.rand(5, 4)):
        torch.testing.assert_close(torch.tensor(loaded.predict(inputs.numpy())), network(inputs))
    requirements = Path(mlflow.pyfunc.get_model_dependencies(f"runs:/{run.run_id}/model"))
    assert "dptrain==" in requirements.read_text(encoding="utf-8"), "what is pickled needs its classes"


def test_a_model_that_cannot_be_kept_costs_no_record_of_its_run(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Local(Branching):
        """What a function or a notebook defines, pickle does not find again."""

    def of_no_package(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(installed, "version", of_no_package)
    with MLflow(register="local").open("cnn", Path("out")) as run:
        run.model(kept(Local(), torch.zeros(2, 4)))
        run.metric("accuracy", 0.5)
    assert client.get_run(run.run_id).data.metrics == {"accuracy": 0.5}
    assert client.search_model_versions("name='local'") == []
    assert "is not stored in MLflow" in caplog.text
    assert "Define its classes at the top of a module" in caplog.text


def test_nothing_is_said_on_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with MLflow().open("cnn", Path("out")) as run:
        run.metric("loss", float("nan"))
        run.model(kept(nn.Linear(4, 2), torch.zeros(2, 4)))
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "mlflow.db").is_file()


@contextmanager
def port(*, listening: bool) -> Iterator[int]:
    """A port where nobody listens, or where connections are taken and nothing is ever answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listening:
            listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("resumed", [None, "0123456789abcdef0123456789abcdef"])
@pytest.mark.parametrize("listening", [False, True])
def test_a_server_that_is_down_is_told_by_its_first_silence(
    listening: bool, resumed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    seconds = 1 if listening else connection.SERVER_SECONDS
    monkeypatch.setattr(connection, "SERVER_SECONDS", seconds)
    request = requests.Session.request

    def counted(session: Any, *arguments: Any, **options: Any) -> Any:
        retries = session.get_adapter("http://").max_retries.total
        asked.append({"timeout": options["timeout"], "retries": retries})
        return request(session, *arguments, **options)

    monkeypatch.setattr(requests.Session, "request", counted)
    with port(listening=listening) as number:
        uri = f"http://127.0.0.1:{number}"
        with pytest.raises(DptrainError, match=rf"tracking\.uri={uri} cannot be used .*tracking=none"):
            MLflow(uri=uri).open("cnn", Path("out"), resumed).__enter__()
    assert asked == [{"timeout": seconds, "retries": 0}], "one question, once"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_seconds_add_up_to_five_at_most() -> None:
    assert connection.SERVER_SECONDS <= 5


@pytest.mark.usefixtures("here")
def test_a_store_that_is_lost_on_the_way_is_named_but_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def lost(*_: Any, **__: Any) -> None:
        raise MlflowException("connection refused")

    def record(run: MLflowRun) -> None:
        monkeypatch.setattr(run._client, "log_batch", lost)
        monkeypatch.setattr(run._client, "set_terminated", lost)
        run.tags({"a": "b"})

    def fail(run: MLflowRun) -> None:
        monkeypatch.setattr(run._client, "set_terminated", lost)
        raise ValueError("ours")

    def fail_with_everything(run: MLflowRun) -> None:
        monkeypatch.setattr(run._client, "log_batch", lost)
        fail(run)

    def finish(run: MLflowRun) -> None:
        monkeypatch.setattr(run._client, "set_terminated", lost)

    failing(DptrainError, record, match=r"stopped taking records .*connection refused.*resume")
    failing(ValueError, fail, match="ours")
    failing(ValueError, fail_with_everything, match="ours")
    failing(DptrainError, finish, match=r"connection refused\); the run is complete in its folder")


def test_the_command_that_shows_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MLflow().command == "mlflow ui"
    assert MLflow(uri="sqlite:////a/b.db").command == "mlflow ui --backend-store-uri sqlite:////a/b.db"
    assert MLflow(uri="http://host:5000").command == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert MLflow().command == "http://other:5000"
    assert NoTracking().command == ""
    assert TensorBoard(logdir="my runs").command == "tensorboard --logdir 'my runs'"


def test_no_tracking_takes_everything_and_keeps_nothing(tmp_path: Path) -> None:
    with NoTracking().open("cnn", tmp_path, None) as run:
        tracker: Tracker = run
        tracker.params({"seed": 1})
        tracker.tags({"a": "b"})
        tracker.metric("loss", 1.0, 3)
        tracker.artifact(tmp_path / "missing")
        tracker.table({"a": [1]}, "a.json")
        tracker.model(kept(nn.Linear(1, 1), torch.zeros(2, 1)))
        tracker.data("squares", {})
        assert run.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}, "f": None, "g": ("x", "y"), "h": []}) == {
        "a.b.c": 1, "a.d.0": 1, "a.d.1": 2, "f": None, "g": "x, y",
    }  # fmt: skip
    columns = {"columns": {"sex": {"kind": "category", "categories": ["f", "m"]}, "age": {"bounds": [0, 99]}}}
    assert flatten(columns) == {
        "columns.sex.kind": "category", "columns.sex.categories": "f, m",
        "columns.age.bounds.0": 0, "columns.age.bounds.1": 99,
    }  # fmt: skip


@pytest.mark.usefixtures("here")
def test_parameters_are_flat_numbers_and_words(client: Any) -> None:
    with MLflow().open("cnn", Path("out")) as run:
        run.params(
            {
                "model": {"_target_": "my.Net", "channels": [8, 16], "pooled": None},
                "release": {"compare": ["top_k", "rounded"]},
                "data": {"columns": {"income (yearly)": {"bounds": [0.0, 1e6]}}},
            }
        )
    assert client.get_run(run.run_id).data.params == {
        "model": "my.Net",
        "model.channels.0": "8",
        "model.channels.1": "16",
        "release.compare": "top_k, rounded",
        "data.columns.income _yearly_.bounds.0": "0.0",
        "data.columns.income _yearly_.bounds.1": "1000000.0",
    }


@pytest.mark.usefixtures("here")
def test_every_recipe_gives_parameters_that_charts_can_use() -> None:
    """No dictionary, list, or None in a string; a number wherever the configuration has one."""
    for recipe in ("quickstart", "medical_cnn", "health_mlp", "credit_mlp"):
        params = flatten(tracked.params(parse(order(recipe=recipe).config), recipe))
        assert params["recipe"] == recipe
        assert isinstance(params["privacy.epsilon"], float)
        for key, value in params.items():
            assert value is None or isinstance(value, int | float | str), key
            assert not re.search(r"[\[\]{}]", str(value)), key
            assert not key.startswith(("tracking", "output", "sweep", "resume"))
            assert not key.endswith("_")


def test_a_run_that_goes_on_is_left_running(here: Path, client: Any) -> None:
    with MLflow().open("sweep", here) as run:
        run.outcome = "RUNNING"
    assert client.get_run(run.run_id).info.status == "RUNNING"
    with MLflow().open("sweep", here, run.run_id) as again:
        again.outcome = "FAILED"
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_a_table_is_replaced_and_mlflow_reads_it_as_one(here: Path, client: Any) -> None:
    with MLflow().open("sweep", here) as run:
        run.table({"point": ["a"], "accuracy": [0.5]}, "comparison/points.json")
        run.table({"point": ["a", "b"], "accuracy": [0.5, None]}, "comparison/points.json")
    experiment = client.get_run(run.run_id).info.experiment_id
    shown = client.load_table(experiment, "comparison/points.json", run_ids=[run.run_id])
    assert list(shown["point"]) == ["a", "b"]
    assert shown["accuracy"][0] == 0.5
    assert shown["accuracy"].isna()[1]


@pytest.mark.usefixtures("here")
def test_what_went_wrong_is_forgotten_when_it_is_tried_again(client: Any) -> None:
    def work(_: MLflowRun) -> None:
        raise ValueError("once")

    run = failing(ValueError, work)
    assert client.get_run(run.run_id).data.tags["error"] == "once"
    with MLflow().open("cnn", Path("out"), run.run_id):
        pass
    assert not {"error", NOTE} & set(client.get_run(run.run_id).data.tags)


def test_an_experiment_is_one_of_trainings(here: Path, client: Any) -> None:
    with MLflow(experiment="kind").open("cnn", here):
        pass
    assert client.get_experiment_by_name("kind").tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.parametrize(
    ("name", "kind"), [("mlflow", MLflow), ("none", NoTracking), ("csv", CSV), ("tensorboard", TensorBoard)]
)
def test_the_configuration_builds_it(name: str, kind: type) -> None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = Path(__file__).parents[2] / "conf" / "tracking" / f"{name}.yaml"
    built = instantiate(OmegaConf.create({"output": ".", "tracking": OmegaConf.load(path)}))
    assert built["tracking"] == kind()


def test_a_name_that_no_registry_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.register=a/b .*; give one"):
        MLflow(register="a/b")


@pytest.mark.parametrize("tracking", [CSV(), TensorBoard()])
def test_runs_are_recorded_in_files_without_secrets(tracking: CSV | TensorBoard, tmp_path: Path) -> None:
    for job, epsilon in (("a", 1.0), ("b", 3.0)):
        (tmp_path / job).mkdir()
        with tracking.open(job, tmp_path / job) as run:
            tracker: Tracker = run
            tracker.params({"privacy": {"epsilon": epsilon, "delta": None}, "data": {"password": "hush"}})
            for step in range(3):
                tracker.metric("holdout/accuracy", 0.5 + step / 10, step)
            tracker.metric("accuracy", 0.75)
            tracker.metric("epsilon", float("inf"))
            tracker.data("squares", {})
            tracker.model(kept(nn.Linear(1, 1), torch.zeros(2, 1)))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(b"hush" not in path.read_bytes() for path in written)
    if isinstance(tracking, CSV):
        with tracking.open("b", tmp_path / "b") as again:
            again.params({"privacy": {"epsilon": 3.0}})
            again.metric("accuracy", 0.8)
            again.metric("loss", 0.4)
        metrics = (tmp_path / "b" / "metrics.csv").read_text(encoding="utf-8").splitlines()
        assert metrics[:2] == ["step,name,value", "0,holdout/accuracy,0.5"]
        assert metrics[-2:] == ["0,accuracy,0.8", "0,loss,0.4"]
        assert len(metrics) == len({line.rpartition(",")[0] for line in metrics}) == 6
        params = (tmp_path / "b" / "params.csv").read_text(encoding="utf-8").splitlines()
        assert params == ["name,value", "privacy.epsilon,3.0"]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "b" / "tensorboard")).Reload()
        assert [(each.step, round(each.value, 4)) for each in events.Scalars("holdout/accuracy")] == [
            (0, 0.5), (1, 0.6), (2, 0.7),
        ]  # fmt: skip
        assert events.summary_metadata["_hparams_/session_start_info"]


def test_tensorboard_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'pip install "dptrain\[tensorboard\]"'):
        TensorBoard()
