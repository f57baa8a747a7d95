"""Runs recorded in MLflow: parameters, metrics, tags, files and the model."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dptrain.contracts import ConfigError, DptrainError, RecordLost, Served
from dptrain.redaction import MASK, redact, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

from dptrain.tracking.connection import (
    alone_with,
    complete,
    default,
    first_line,
    impatiently,
    import_mlflow,
    is_server,
    look_and_write,
    quietly,
    reach,
    store_of,
)
from dptrain.tracking.names import TABLES, UNNAMEABLE, failure, flatten

FLUSH_SECONDS = 1.0  # metrics wait this long for company: a database write costs as much as a step
BATCH = 100  # most parameters or tags that MLflow takes in one request
# Without this MLflow takes an experiment for one with language models, and opens another page of it.
EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class MLflow:
    """Records runs in MLflow.

    Without a `uri` the runs go to MLFLOW_TRACKING_URI, else to `sqlite:///mlflow.db` in the current folder,
    with their artifacts in `./mlruns` beside it: what `mlflow ui`, given there, shows by itself (where an old
    MLflow left a file store in `./mlruns`: `mlflow ui --backend-store-uri sqlite:///mlflow.db`).

    `register` is a name under which the model of every run becomes a version in the registry, its alias the
    verdict on it; one whose guarantee an attack has broken does not.
    """

    uri: str | None = None
    experiment: str = "dptrain"
    register: str | None = None

    def __post_init__(self) -> None:
        if self.register is not None and (not self.register.strip() or set(self.register) & set("/:")):
            raise ConfigError(
                f"tracking.register={self.register} is no name of a model in MLflow's registry; give one "
                "without / and :, or null to register none"
            )

    @property
    def command(self) -> str:
        """What to type to look at the runs; for a server, the address to open."""
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            return "mlflow ui"
        shown = redact(uri)
        return shown.replace(f"{MASK}@", "") if is_server(uri) else f"mlflow ui --backend-store-uri {shown}"

    @contextmanager
    def open(self, name: str, folder: Path, resume_id: str | None = None) -> Iterator[MLflowRun]:
        """A tracker for one run, new or resumed; its status is FAILED or KILLED in the end, or its `outcome`.

        Raises DptrainError, within seconds, where the store or the run to resume cannot be had.
        """
        mlflow = import_mlflow()
        uri = complete(self.uri or os.environ.get("MLFLOW_TRACKING_URI") or default())
        with quietly():
            try:
                with alone_with(uri):
                    reach(uri)
                    client = mlflow.MlflowClient(tracking_uri=uri)
                    with impatiently(retries=0):  # a server that answers this is there
                        known = client.get_experiment_by_name(self.experiment)
                    run = (
                        self._resume(client, uri, resume_id)
                        if resume_id
                        else self._create(client, uri, name, known)
                    )
            except DptrainError:
                raise
            except Exception as error:
                raise DptrainError(
                    f"tracking.uri={redact(uri)} cannot be used ({first_line(error)}); start the server or "
                    "correct the address, or run with tracking=none"
                ) from error
            run.tags({"folder": str(folder)})
        try:
            yield run
        except Exception as error:
            with suppress(RecordLost), impatiently():
                run.tags(failure(first_line(error)))
            run.end("FAILED")
            raise
        except BaseException:  # interrupted, or asked to exit
            run.end("KILLED")
            raise
        run.end(run.outcome)

    def _create(self, client: MlflowClient, uri: str, name: str, experiment: Experiment | None) -> MLflowRun:
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise DptrainError(
                f"tracking.experiment={self.experiment} was deleted in {redact(uri)}; name another, or "
                f"restore it with `mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            )
        identity = experiment.experiment_id if experiment else self._new_experiment(client)
        created = client.create_run(identity, run_name=name, tags={"mlflow.source.name": "dptrain"})
        return MLflowRun(client, uri, created, self.register)

    def _new_experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return client.create_experiment(self.experiment, tags=EXPERIMENT)
        except MlflowException as error:
            made = client.get_experiment_by_name(self.experiment)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or made is None:
                raise
            return made.experiment_id  # another process was quicker

    def _resume(self, client: MlflowClient, uri: str, run_id: str) -> MLflowRun:
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_run(run_id)
            client.update_run(run_id, status="RUNNING")
            for tag in failure("") if "error" in found.data.tags else ():
                client.delete_tag(run_id, tag)  # of the attempt before
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise DptrainError(
                f"tracking.uri={redact(uri)} does not hold run {run_id}, which this checkpoint belongs to; "
                "give the uri that the run was started with, or run with tracking=none"
            ) from error
        return MLflowRun(client, uri, found, self.register)


class MLflowRun:
    """The tracker of one MLflow run; `run_id` finds it again after an interruption.

    `outcome` is the status it ends with if nothing is raised: FINISHED, FAILED, or RUNNING if it goes on.
    """

    def __init__(self, client: MlflowClient, uri: str, run: Run, register: str | None = None) -> None:
        self.run_id: str = run.info.run_id
        self._experiment_id = run.info.experiment_id
        self._client = client
        self._uri = uri
        self._register = register
        self._of_model: dict[str, str] = {}  # what MLflow shows metrics of a model by
        self.outcome = "FINISHED"
        self._recorded = set(run.data.params)
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters under flat names (see `flatten`); a resumed run keeps those it began with.

        What is None is left out: one word among numbers turns the axis of a chart into a list of words.
        """
        from mlflow.entities import Param

        new = [
            Param(key, str(value))
            for name, value in flatten(redacted(values)).items()
            if value is not None and (key := UNNAMEABLE.sub("_", name)) not in self._recorded
        ]
        self._recorded.update(param.key for param in new)
        self._log_in_batches("params", new)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; later values replace earlier ones."""
        from mlflow.entities import RunTag

        self._log_in_batches("tags", [RunTag(key, redact(str(value))) for key, value in values.items()])

    def _log_in_batches(self, kind: str, entries: Any) -> None:
        with self._storing():
            for start in range(0, len(entries), BATCH):
                self._client.log_batch(self.run_id, **{kind: entries[start : start + BATCH]})

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Record a number at a step; an infinite one is left out, since MLflow would draw it as 1.8e308."""
        from mlflow.entities import Metric

        if math.isinf(value):
            return
        of = self._of_model if "model_id" in self._of_model and step == 0 else {}
        self._waiting.append(Metric(name, float(value), int(time.time() * 1000), step, **of))
        if time.monotonic() - self._flushed > FLUSH_SECONDS or len(self._waiting) == 10 * BATCH:
            self._flush()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a copy of a file under `folder` of the run's artifacts."""
        with self._storing():
            self._client.log_artifact(self.run_id, str(path), folder)

    def table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        """Store a table, by column, as a JSON file of the run's artifacts that MLflow shows as a table.

        In place of one that is there: MLflow's own `log_table` would append to it.
        """
        import pandas

        text = pandas.DataFrame(columns).to_json(orient="split", index=False)
        with self._storing():
            self._client.log_text(self.run_id, text, path)
        self.tags({TABLES: json.dumps([{"path": path, "type": "table"}])})

    def data(self, name: str, counts: Mapping[str, int]) -> None:
        """Name the data set as an input of the run, with counts that are public."""
        from mlflow.entities import Dataset, DatasetInput

        profile = json.dumps(dict(counts))
        # MLflow tells data sets apart by a digest; one of records would let anyone test a guess at them.
        digest = sha256(f"{name} {profile}".encode()).hexdigest()[:8]
        used = Dataset(
            name=name,
            digest=digest,
            source_type="dptrain",
            source=json.dumps({"name": name}),
            profile=profile,
        )
        with self._storing():
            look_and_write(self._uri, lambda: self._client.log_inputs(self.run_id, [DatasetInput(used)]))
        self._of_model |= {"dataset_name": name, "dataset_digest": digest}

    def model(self, model: Served) -> None:
        """Store the model, to which later metrics belong, and register it where that is wanted."""
        from dptrain.tracking.models import log_model, register  # when a run has trained

        with self._storing(), store_of(self._uri, self._experiment_id):
            logged = log_model(model, self.run_id)
            if logged is not None and self._register is not None and model.verdict is not None:
                register(self._client, self._register, logged, model.verdict)
        if logged is not None:
            self._of_model["model_id"] = logged.model_id

    def end(self, status: str) -> None:
        """Write what waits and set the final status; a server lost by now must not hide why the run ended."""
        try:
            with impatiently():
                self._flush()
                if status != "RUNNING":
                    with self._storing():
                        self._client.set_terminated(self.run_id, status)
        except RecordLost as error:
            if status == "FINISHED":
                raise RecordLost(
                    error.what, "the run is complete in its folder, and only its record there is not"
                ) from error

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._flushed = time.monotonic()
        if waiting:
            with self._storing():
                self._client.log_batch(self.run_id, metrics=waiting)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """MLflow at work: quiet, and its failures told as ours."""
        from mlflow.exceptions import MlflowException

        with quietly():
            try:
                yield
            except (MlflowException, OSError) as error:
                raise RecordLost(
                    f"tracking.uri={redact(self._uri)} stopped taking records of run {self.run_id} "
                    f"({first_line(error)})",
                    "bring it back and resume the run, or run with tracking=none",
                ) from error
