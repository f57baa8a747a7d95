"""Redis and PostgreSQL, started for a test where their programs are installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import support

redis_server = support.script("redis_server")

SECONDS = 60.0  # that a server may take to start


@contextmanager
def redis() -> Iterator[Any]:
    """A Redis that runs within the context; skips the test where none is installed."""
    if not redis_server.installed():
        pytest.skip(redis_server.MISSING)
    pytest.importorskip("redis")
    server = redis_server.Redis()
    server.start()
    try:
        yield server
    finally:
        server.kill(signal.SIGCONT)
        server.kill()


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a database of a PostgreSQL that runs within the context; skips where none is installed."""
    pytest.importorskip("psycopg")
    found = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    program = next((Path(each).resolve() for each in found if each), None)
    if program is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="dptrain-pg-") as folder:
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        words = [program, "-D", data, "-U", "dptrain", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]
        subprocess.run(words, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        server = subprocess.Popen(
            [program.with_name("postgres"), "-D", data, "-k", folder, "-h", "", "-F"],
            user=user,
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        try:
            _until(lambda: _listens(f"{folder}/.s.PGSQL.5432"), "PostgreSQL")
            yield f"postgresql+psycopg://dptrain@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # at once, without waiting for clients
            server.wait()


def _listens(path: str) -> bool:
    try:
        import psycopg

        psycopg.connect(f"host={Path(path).parent} user=dptrain dbname=postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _until(answers, name: str) -> None:
    last = time.monotonic() + SECONDS
    while not answers():
        if time.monotonic() > last:
            pytest.fail(f"{name} did not start within {SECONDS:g} seconds")
        time.sleep(0.02)
