"""A program with workers that do nothing: `python idling.py` tells the ids of the processes that it has."""

from __future__ import annotations

import socket
import threading
import time

from dptrain.serving.workers import Workers, supervise


def idle(*_: object) -> None:
    threading.Event().wait()


def fail(*_: object) -> None:
    raise SystemExit(7)


def tell(workers: Workers) -> None:
    while len(workers.pids) < 2:
        time.sleep(0.01)
    print(*workers.pids, flush=True)


if __name__ == "__main__":
    import idling

    with socket.create_server(("127.0.0.1", 0)) as listening:
        workers = Workers(idling.idle, listening, 2)
        threading.Thread(target=tell, args=(workers,), daemon=True).start()
        supervise(workers)
