"""Redis and PostgreSQL, started for a test where their programs are installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 60.0  # that a server may take to start


class Redis:
    """A Redis without a disk, which can be killed, and started anew at the same port."""

    def __init__(self, program: str) -> None:
        self._program = program
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [self._program, "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen([*words, "--appendonly", "no"], stdout=subprocess.DEVNULL)
        _until(self._answers, "Redis")

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(with_signal)
        if with_signal == signal.SIGKILL:
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as asked:
                asked.sendall(b"PING\r\n")
                return asked.recv(5) == b"+PONG"
        except OSError:
            return False


@contextmanager
def redis() -> Iterator[Redis]:
    """A Redis that runs within the context; skips the test where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    pytest.importorskip("redis")
    server = Redis(program)
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
