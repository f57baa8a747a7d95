"""Runs read back from MLflow, with their reports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dptrain.contracts import DptrainError
from dptrain.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

from dptrain.tracking.connection import complete, default, first_line, impatiently, import_mlflow, quietly
from dptrain.tracking.names import PARENT


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A run as the store has it; `report` is what its artifact report/report.json holds, if there is one."""

    run_id: str
    name: str
    status: str  # FINISHED, FAILED, KILLED, RUNNING or SCHEDULED
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    report: dict[str, Any] | None


def read_runs(
    uri: str | None = None,
    experiment: str = "dptrain",
    *,
    parents: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    ids: Sequence[str] = (),
) -> list[Tracked]:
    """Runs of a store, the oldest first: these parents' children, those with all these tags, these ids.

    Runs that are others' parents are left out. Raises DptrainError where the store, the experiment
    or a run cannot be had.
    """
    mlflow = import_mlflow()
    uri = complete(uri or os.environ.get("MLFLOW_TRACKING_URI") or default())
    with quietly(), impatiently():
        try:
            client = mlflow.MlflowClient(tracking_uri=uri)
            found = [client.get_run(run_id) for run_id in ids]
            wanted = [{PARENT: parent} for parent in parents] + ([dict(tags)] if tags else [])
            if wanted:
                known = {each.name: each.experiment_id for each in client.search_experiments()}
                if experiment not in known:
                    raise DptrainError(
                        f"tracking.experiment={experiment} is not in {redact(uri)}; it holds "
                        f"{', '.join(known) or 'none'}"
                    )
                for tag in wanted:
                    found += _search(client, known[experiment], tag)
            above = {run.data.tags.get(PARENT) for run in found}
            once = {run.info.run_id: run for run in found if run.info.run_id not in above}
            return [
                _tracked(client, run) for run in sorted(once.values(), key=lambda run: run.info.start_time)
            ]
        except DptrainError:
            raise
        except Exception as error:
            raise DptrainError(
                f"tracking.uri={redact(uri)} cannot be read ({first_line(error)}); start the server, or "
                "correct the address or the ids"
            ) from error


def _search(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """All runs with these tags; MLflow gives them out in pages."""
    text = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    page = client.search_runs([experiment_id], text)
    found = list(page)
    while page.token:
        page = client.search_runs([experiment_id], text, page_token=page.token)
        found += page
    return found


def _tracked(client: MlflowClient, run: Run) -> Tracked:
    report = None
    if any(entry.path == "report/report.json" for entry in client.list_artifacts(run.info.run_id, "report")):
        with TemporaryDirectory() as folder:
            path = client.download_artifacts(run.info.run_id, "report/report.json", folder)
            report = json.loads(Path(path).read_text(encoding="utf-8"))
    return Tracked(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        params=run.data.params,
        tags=run.data.tags,
        metrics=run.data.metrics,
        report=report,
    )
