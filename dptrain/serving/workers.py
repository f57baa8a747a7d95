"""Several processes that answer at one address: started, and again where one ends, while their parent lives.

The parent listens, so that connections wait for a worker and are not refused while one starts. It waits for
the ends of processes and for nothing else. (uvicorn's own supervisor asks for signs of life, which a worker
that reads its model does not give, and is deaf to the ends of others meanwhile; its workers outlive it.)
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

log = logging.getLogger(__name__)

Work = Callable[[socket.socket, Path], None]  # answers at a socket until SIGTERM; counts in files of a folder

WAITING = 2048  # connections that wait to be taken
STEADY_SECONDS = 30.0  # that a worker lives if nothing is wrong with it from the beginning
MOST_PAUSE_SECONDS = 60.0
STOP_SECONDS = 10.0  # that a worker may take to finish what it has begun


@dataclass
class _Place:
    """A worker, or the time at which another one is started in its place."""

    process: BaseProcess | None = None
    since: float = 0.0
    failed: int = 0  # in a row, early
    due: float = 0.0


class Workers:
    """Processes that do the same work; all methods are of the process that made them."""

    def __init__(self, work: Work, listening: socket.socket, count: int, imports: Sequence[str] = ()) -> None:
        """`work` is a function of a module, which is imported once for all workers, like `imports`."""
        self._work, self._listening = work, listening
        listening.listen(WAITING)
        self._places = [_Place() for _ in range(count)]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(imports))
        self._told, self._telling = self._context.Pipe(duplex=False)

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there now."""
        return [each.process.pid for each in self._places if each.process and each.process.pid]

    def stop(self) -> None:
        """Have `watch` end; of signal handlers and other threads too."""
        self._telling.send_bytes(b".")

    def watch(self) -> None:
        """Start the workers, and again whichever ends, until `stop` is called."""
        with TemporaryDirectory(prefix="dptrain-counters-") as folder:
            try:
                while not self._told.poll():
                    self._start(Path(folder))
                    self._rest()
            finally:
                self._end()

    def _start(self, folder: Path) -> None:
        """Start what is due."""
        for place in self._places:
            if place.process is None and place.due <= time.monotonic():
                given = (self._work, self._listening, folder)
                process = self._context.Process(target=_begin, args=given, name="dptrain worker")
                place.since = time.monotonic()
                try:
                    process.start()
                except (OSError, EOFError) as error:  # what starts processes has ended; another is made
                    self._pause(place, f"a worker did not start ({type(error).__name__})")
                else:
                    place.process, place.since = process, time.monotonic()

    def _rest(self) -> None:
        """Wait until a worker ends, one is due, or there is to be an end."""
        running: dict[int, _Place] = {
            each.process.sentinel: each for each in self._places if each.process is not None
        }
        due = [each.due for each in self._places if each.process is None]
        pause = max(0.0, min(due) - time.monotonic()) if due else None
        for ended in wait([self._told, *running], pause):
            if not isinstance(ended, Connection):
                self._note(running[ended])  # type: ignore[index]

    def _note(self, place: _Place) -> None:
        """Note that a worker has ended, and when there is to be another."""
        assert place.process is not None
        place.process.join()
        self._pause(place, f"worker {place.process.pid} ended ({place.process.exitcode})")
        place.process = None

    @staticmethod
    def _pause(place: _Place, said: str) -> None:
        """Say what became of a worker, and set when there is to be another."""
        lived = time.monotonic() - place.since
        place.failed = 0 if lived >= STEADY_SECONDS else place.failed + 1
        pause = min(MOST_PAUSE_SECONDS, 2.0 ** (place.failed - 2)) if place.failed > 1 else 0.0
        place.due = time.monotonic() + pause
        log.warning("%s; another is started in %g seconds", said, pause)

    def _end(self) -> None:
        """Let all workers finish what they have begun."""
        running = [each.process for each in self._places if each.process is not None]
        for process in running:
            process.terminate()
        last = time.monotonic() + STOP_SECONDS
        for process in running:
            process.join(max(0.0, last - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        for place in self._places:
            place.process = None


def supervise(workers: Workers) -> None:
    """Have workers at work until SIGTERM or SIGINT; of the main thread."""

    def stop(*_: Any) -> None:
        workers.stop()

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        workers.watch()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def working(workers: Workers) -> Iterator[Workers]:
    """Workers that are at work within the context, watched by a thread."""
    thread = threading.Thread(target=workers.watch, daemon=True)
    thread.start()
    try:
        yield workers
    finally:
        workers.stop()
        thread.join()


def _begin(work: Work, listening: socket.socket, folder: Path) -> None:
    """Do the work of one worker, and end it where its parent is gone, however that ended."""
    signal.signal(signal.SIGTERM, _finished)  # until the server takes it, which raises it again at its end
    signal.signal(signal.SIGINT, _finished)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def orphaned() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=orphaned, daemon=True).start()
    work(listening, folder)


def _finished(*_: Any) -> None:
    raise SystemExit(0)
