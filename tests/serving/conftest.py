"""Services of a small model, started for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from services import Website, make_service

from dptrain.serving.app import make_app
from dptrain.serving.guard import Guard
from dptrain.serving.server import running


@pytest.fixture
def website(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a service, in this process, with these guards; a context manager."""

    @contextmanager
    def start(guards: dict[str, Guard] | None = None, **changes: Any) -> Iterator[Website]:
        service = make_service(tmp_path, guards, **changes)
        key = "" if service.keys is None else service.keys.make(tenant="ward", scopes=["predict"], days=None)
        try:
            with running(make_app(service), "127.0.0.1", 0) as url:
                yield Website(service, url, key)
        finally:
            service.close()

    return start
