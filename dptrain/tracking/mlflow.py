"""Runs recorded in MLflow: parameters, metrics, tags, files and the model."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dptrain.contracts import DptrainError, Inputs
from dptrain.contracts.trees import by_name
from dptrain.redaction import MASK, redact, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

from dptrain.tracking.connection import (
    alone_with,
    complete,
    default,
    first_line,
    impatiently,
    import_mlflow,
    is_server,
    quietly,
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
    """

    uri: str | None = None
    experiment: str = "dptrain"

    @property
    def command(self) -> str:
        """What to type to look at the runs; for a server, the address to open."""
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
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
                with impatiently(), alone_with(uri):
                    client = mlflow.MlflowClient(tracking_uri=uri)
                    run = (
                        self._resume(client, uri, resume_id) if resume_id else self._create(client, uri, name)
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
            run.tags(failure(first_line(error)))
            run.end("FAILED")
            raise
        except BaseException:  # interrupted, or asked to exit
            run.end("KILLED")
            raise
        run.end(run.outcome)

    def _create(self, client: MlflowClient, uri: str, name: str) -> MLflowRun:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise DptrainError(
                f"tracking.experiment={self.experiment} was deleted in {redact(uri)}; name another, or "
                f"restore it with `mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            )
        identity = experiment.experiment_id if experiment else self._new_experiment(client)
        created = client.create_run(identity, run_name=name, tags={"mlflow.source.name": "dptrain"})
        return MLflowRun(client, uri, created)

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
        return MLflowRun(client, uri, found)


class MLflowRun:
    """The tracker of one MLflow run; `run_id` finds it again after an interruption.

    `outcome` is the status it ends with if nothing is raised: FINISHED, FAILED, or RUNNING if it goes on.
    """

    def __init__(self, client: MlflowClient, uri: str, run: Run) -> None:
        self.run_id: str = run.info.run_id
        self._experiment_id = run.info.experiment_id
        self._client = client
        self._uri = uri
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
        self._waiting.append(Metric(name, float(value), int(time.time() * 1000), step))
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

    def model(self, model: nn.Module, example: Inputs) -> None:
        """Store the model with its signature and an input example (N, ...), which must be synthetic.

        The format is torch.export's, which loads without this package and runs no foreign code; a
        model whose control flow depends on its input is pickled instead. Both are for the CPU.
        """
        with quietly():
            import mlflow.pytorch
            from mlflow.models import infer_signature

        # torch.export fixes a batch dimension of one: show it two, or the model would serve no others
        example = by_name(
            lambda one: one.detach().cpu() if len(one) > 1 else one.detach().cpu().expand(2, *one.shape[1:]),
            example,
        )
        shown = by_name(Tensor.numpy, example)
        model = model.cpu().eval()
        with torch.no_grad(), quietly():
            signature = infer_signature(shown, model(example).numpy())
        as_graph = _exportable(model, example)
        requirements = [
            f"{package}=={version(package).split('+')[0]}" for package in ("mlflow", "torch", "numpy")
        ]
        with self._storing(), store_of(self._uri, self._experiment_id):
            mlflow.pytorch.log_model(
                model,
                name="model",
                signature=signature,
                input_example=shown,
                pip_requirements=requirements,
                serialization_format="pt2" if as_graph else "pickle",
                run_id=self.run_id,
            )

    def end(self, status: str) -> None:
        """Write what waits and set the final status; a server lost by now must not hide why the run ended."""
        try:
            with impatiently():
                self._flush()
                if status != "RUNNING":
                    with self._storing():
                        self._client.set_terminated(self.run_id, status)
        except DptrainError:
            if status == "FINISHED":
                raise

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
                raise DptrainError(
                    f"tracking.uri={redact(self._uri)} stopped taking records of run {self.run_id} "
                    f"({first_line(error)}); bring it back and resume the run, or run with tracking=none"
                ) from error


def _exportable(model: nn.Module, example: Inputs) -> bool:
    """Whether torch.export can trace the model, at any batch size."""
    with quietly(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            any_size = by_name(lambda _: {0: torch.export.Dim.AUTO}, example)
            torch.export.export(model, (example,), dynamic_shapes=(any_size,))
        except Exception:  # torch.export has no common error; whatever it was, pickle is the answer
            return False
    return True
