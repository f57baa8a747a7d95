#!/usr/bin/env python3
"""What two workers count of as much as clients can send: python scripts/bench_load.py

Needs MNIST in DPTRAIN_DATA (mnist.npz) and Debian's redis-server. Two workers with every guard answer at one
address, rates in Redis, the rest in SQLite. Each phase is a line of JSON: what the clients were answered, and
what ledger, store and counters hold.

whole      Nothing happens to anybody: all four agree.
worker     A worker is killed (kill -9) in the middle, and started again by its parent.
redis      Redis is killed in the middle, and started again: without it nothing is answered.
budget     The budget of the key ends in the middle: not one query more is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import torch
from bench_serving import JSON, bodies, few, fitted, guards, service_of, victim
from redis_server import MISSING, Redis, installed
from sqlalchemy import func, select
from torch import Tensor

from dptrain.serving.app import make_app
from dptrain.serving.guard import Guard
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.metrics import Metrics
from dptrain.serving.rates import Rates
from dptrain.serving.server import bound, run
from dptrain.serving.store import Store
from dptrain.serving.tables import QUERIES, SPENT
from dptrain.serving.workers import Workers, working

WORKERS = 2
NO_LIMIT, ENDING = 10**9, 1000  # budgets


def work(
    folder: Path, chosen: Mapping[str, Guard], weights: Mapping[str, Tensor], listening: socket.socket,
    counters: Path,
) -> None:  # fmt: skip
    """What each worker does."""
    torch.set_num_threads(1)
    net = victim()
    net.load_state_dict(dict(weights))
    service = service_of(net.eval(), folder, chosen, workers=WORKERS, metrics=Metrics(counters))
    run(make_app(service), listening)


class Site:
    """Two workers at one address, and what they count."""

    def __init__(self, port: int, workers: Workers, store: Store) -> None:
        self.port, self.workers, self._store = port, workers, store

    def ask(self, connection: HTTPConnection, body: bytes) -> int:
        """The status of an answer; 0 where the connection broke off."""
        try:
            connection.request("POST", "/v1/predict", body, JSON)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (HTTPException, OSError):
            connection.close()  # the next request opens it again
            return 0

    def counted(self) -> dict[str, int]:
        """Queries by the ledger, in the store, and by the workers' counters."""
        spent = select(func.sum(SPENT.c.queries)).where(SPENT.c.scope == "key")
        kept = select(func.count()).where(QUERIES.c.outcome.in_(("answered", "coarse")))
        return {
            "ledger": self._store.rows(spent)[0][0] or 0,
            "store": self._store.rows(kept)[0][0],
            "counters": self._counter(),
        }

    def _counter(self) -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        return int(sum(float(each.split()[-1]) for each in lines if each.startswith("dptrain_queries_total")))


@contextmanager
def site(folder: Path, redis: Redis, budget: int) -> Iterator[Site]:
    """The workers at work."""
    chosen = {
        **guards(()),  # an alarm is raised, and slows nobody
        "rates": Rates(key=["1000000/second"], storage=redis.url),
        "budget": QueryBudget(per_key=budget),
    }
    net, store, listening = fitted(victim(), few(), epochs=1), Store(folder), bound("127.0.0.1", 0)
    workers = Workers(partial(work, folder, chosen, net.state_dict()), listening, WORKERS, ["bench_serving"])
    with listening, working(workers):
        yield Site(listening.getsockname()[1], workers, store)
    store.close()


def phase(at: Site, clients: int, seconds: float, event: Callable[[], None]) -> dict[str, float]:
    """Ask as much as can be asked for so long, with an event in the middle; what everybody counted."""
    asked = bodies()
    before, until = at.counted(), time.monotonic() + seconds
    found: list[Counter[int]] = [Counter() for _ in range(clients)]

    def one(place: int) -> None:
        connection = HTTPConnection("127.0.0.1", at.port, timeout=60)
        while time.monotonic() < until:
            status = at.ask(connection, asked[sum(found[place].values()) % len(asked)])
            found[place][status] += 1
            if status != 200:
                time.sleep(0.05)

    threads = [threading.Thread(target=one, args=(place,)) for place in range(clients)]
    for each in threads:
        each.start()
    time.sleep(seconds / 2)
    event()
    for each in threads:
        each.join()
    after, statuses = at.counted(), sum(found, Counter())
    return {
        "clients": clients,
        "answered": statuses[200],
        "a_second": round(statuses[200] / seconds, 1),
        **{name: after[name] - before[name] for name in after},
        **{f"status_{status}": number for status, number in sorted(statuses.items()) if status != 200},
    }


def nothing(at: Site, redis: Redis) -> None:
    """Leave all as it is."""


def lose_worker(at: Site, redis: Redis) -> None:  # noqa: ARG001
    """Kill a worker."""
    os.kill(at.workers.pids[0], signal.SIGKILL)


def lose_redis(at: Site, redis: Redis) -> None:  # noqa: ARG001
    """Kill Redis, and start it again."""
    redis.kill()
    time.sleep(2.0)
    redis.start()


# What happens in the middle of each phase.
EVENTS: Mapping[str, Callable[[Site, Redis], None]] = {
    "whole": nothing,
    "worker": lose_worker,
    "redis": lose_redis,
    "budget": nothing,
}


def main(words: list[str] | None = None) -> int:
    """Run the phases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    if not installed():
        raise SystemExit(MISSING)
    redis = Redis()
    redis.start()
    try:
        for name, event in EVENTS.items():
            budget = ENDING if name == "budget" else NO_LIMIT
            with tempfile.TemporaryDirectory() as folder, site(Path(folder), redis, budget) as at:
                row = phase(at, options.clients, options.seconds, partial(event, at, redis))
            print(json.dumps({"phase": name, "workers": WORKERS, **row}), flush=True)
    finally:
        redis.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
