"""A Redis of one's own, for benchmarks and tests: it can be killed, and started again at the same port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time

PROGRAM = "redis-server"
MISSING = "redis-server is not installed (Debian: apt-get install redis-server)"
SECONDS = 60.0  # that it may take to start


def installed() -> bool:
    """Whether there is one to start."""
    return shutil.which(PROGRAM) is not None


class Redis:
    """A Redis without a disk, at a port of the system's choice."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [
            PROGRAM,
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        last = time.monotonic() + SECONDS
        while not self._answers():
            if time.monotonic() > last:
                raise TimeoutError(f"Redis did not start within {SECONDS:g} seconds")
            time.sleep(0.02)

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
