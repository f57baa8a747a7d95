"""The connection to MLflow where the machine says little: no name of a user, an empty address."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dptrain.tracking import connection
from dptrain.tracking.mlflow import MLflow


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyError("getpwuid(): uid not found: 54321"), OSError("No username set")):
        monkeypatch.setattr(connection, "getuser", raising(error))
        with connection.alone_with("sqlite:///a.db"):
            pass


def raising(error: Exception) -> Callable[[], str]:
    def fail() -> str:
        raise error

    return fail


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert MLflow(experiment="a").command == "mlflow ui"
