"""The connection to MLflow: which store, how long to wait, what it may print, and one process at a time."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from getpass import getuser
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock

from dptrain.contracts import DptrainError
from dptrain.redaction import MASK, redact

SERVER_SECONDS = 4  # how long a tracking server may take to answer a question


def import_mlflow() -> Any:
    """MLflow, which takes seconds to import, and reports its use to its makers unless told not to."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with quietly():
        import mlflow

    return mlflow


def alone_with(uri: str) -> FileLock:
    """While this lock is held no other process of this user begins with the same store.

    MLflow makes a database's tables without a guard: two jobs that begin together would both do it.
    """
    name = sha256(f"{_user()} {uri}".encode()).hexdigest()[:16]
    return FileLock(Path(gettempdir()) / f"dptrain-{name}.lock")


def _user() -> str:
    """Who runs this; by number where nothing gives a name, as in a container."""
    try:
        return getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else "nobody"


def look_and_write(uri: str, call: Callable[[], None]) -> None:
    """Make a call by which MLflow looks whether a row is there and then writes it.

    Once more where it fails, as it does if a process of another machine wrote the row in between.
    """
    from mlflow.exceptions import MlflowException

    with alone_with(uri):
        try:
            call()
        except MlflowException:
            call()


def default() -> str:
    return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def complete(uri: str) -> str:
    """The address with its secret; of a server, one without where MLflow finds that in the environment.

    Raises DptrainError where it has none: a resumed run has it from no file.
    """
    if MASK not in uri:
        return uri
    with_password = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= os.environ.keys()
    if is_server(uri) and f"{MASK}@" in uri and (with_password or "MLFLOW_TRACKING_TOKEN" in os.environ):
        return uri.replace(f"{MASK}@", "")
    elsewhere = " (or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)" if is_server(uri) else ""
    raise DptrainError(
        f"tracking.uri={uri}: no file keeps its secret; give tracking.uri again as it was given{elsewhere}, "
        "or start anew with tracking=none"
    )


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


@contextmanager
def quietly() -> Iterator[None]:
    """No warnings, and no log lines below an error, from MLflow and its database migrations."""
    for name in ("mlflow", "alembic", "torch.fx.experimental.symbolic_shapes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def impatiently(*, retries: int = 1) -> Iterator[None]:
    """A server has seconds to answer, where MLflow would go on asking for minutes."""
    with environment(
        MLFLOW_HTTP_REQUEST_MAX_RETRIES=str(retries), MLFLOW_HTTP_REQUEST_TIMEOUT=str(SERVER_SECONDS)
    ):
        yield


def reach(uri: str) -> None:
    """Ask a database once, where MLflow would go on asking for two minutes; raises what its driver does."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    kind, _, rest = uri.partition("://")
    if kind.startswith("sqlite"):
        path = Path(rest.removeprefix("/").partition("?")[0])
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, and no file of a database")
    elif kind.startswith(("postgresql", "mysql")):
        engine = create_sqlalchemy_engine(
            f"{uri}{'&' if '?' in uri else '?'}connect_timeout={SERVER_SECONDS}"
        )
        try:
            engine.connect().close()
        finally:
            engine.dispose()


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables, set for a while."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def first_line(error: Exception) -> str:
    line = redact((str(error).strip().splitlines() or [type(error).__name__])[0])
    return line if len(line) <= 160 else f"{line[:160]}…"


@contextmanager
def store_of(uri: str, experiment_id: str) -> Iterator[None]:
    """Makes these MLflow's own for a while: logging a model takes neither as an argument."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        with environment(MLFLOW_EXPERIMENT_ID=experiment_id):
            yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
