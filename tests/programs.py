"""`python -m dptrain` in processes of their own that have imported it already: a start costs nothing."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import IO

import pytest


def loaded() -> ForkServerContext:
    """Starts processes that have all of dptrain loaded; they are forked from one that did nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


class Program:
    """What subprocess.Popen is of a new interpreter."""

    def __init__(
        self, words: tuple[str, ...], *, cwd: Path, env: Mapping[str, str], start_new_session: bool
    ) -> None:
        self._said = Path(mkdtemp(prefix="dptrain_program_"))
        self.args = ("python", "-m", "dptrain", *words)
        self._process = loaded().Process(
            target=_run, args=(words, Path(cwd), dict(env), self._said, start_new_session)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, and its errors, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        out, err = ((self._said / name).read_text() for name in ("out", "err"))
        rmtree(self._said)
        return out, err


def _run(words: tuple[str, ...], cwd: Path, env: dict[str, str], said: Path, new_session: bool) -> None:
    """As a new interpreter would: its own words, folder, environment and output."""
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["dptrain", *words]
    sys.path[:0] = [str(cwd), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.stdout, sys.stderr = _to(said / "out", 1), _to(said / "err", 2)
    try:
        runpy.run_module("dptrain", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves to its parent
        sys.stdout.flush()


def _to(path: Path, descriptor: int) -> IO[str]:
    """A file in the place of standard output or error, for what is started from here too."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)
    return open(descriptor, "w", buffering=1, closefd=False)
