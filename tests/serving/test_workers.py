"""Several workers: what they count together, and what the death of one, or of Redis, changes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from unittest import mock

import idling
import pytest
import torch
from servers import postgres, redis
from services import SHAPE, make_service, worker
from sqlalchemy import func, select

from dptrain.contracts import ConfigError
from dptrain.serving.detection.detectors import ClassConcentration
from dptrain.serving.detection.guard import Detection
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.rates import Rates
from dptrain.serving.recording import Recording
from dptrain.serving.server import bound
from dptrain.serving.store import Store
from dptrain.serving.tables import QUERIES, SPENT
from dptrain.serving.workers import Workers, working

pytestmark = pytest.mark.e2e

ONE = json.dumps({"inputs": torch.zeros(1, *SHAPE).tolist()}).encode()
JSON = {"Content-Type": "application/json"}
MANY = 100_000


class Site:
    """Two workers at one address, and what is known of them."""

    def __init__(self, port: int, workers: Workers, store: Store) -> None:
        self.port, self.workers, self.store = port, workers, store

    def ask(
        self, method: str = "POST", path: str = "/v1/predict", body: bytes | None = ONE
    ) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 where the connection broke off."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, JSON)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (HTTPException, OSError):
            return 0, b""
        finally:
            connection.close()

    def together(
        self, clients: int, requests: int, until: Callable[[], bool] = lambda: False
    ) -> Counter[int]:
        """The statuses of so many requests by each of so many clients at once, or until something is so."""

        def one(_: int) -> Counter[int]:
            found: Counter[int] = Counter()
            for _ in range(requests):
                if until():
                    break
                found[self.ask()[0]] += 1
            return found

        with ThreadPoolExecutor(clients) as pool:
            return sum(pool.map(one, range(clients)), Counter())

    def spent(self) -> int:
        (row,) = self.store.rows(select(func.sum(SPENT.c.queries)).where(SPENT.c.scope == "key"))
        return row[0] or 0

    def recorded(self) -> int:
        answered = select(func.count()).where(QUERIES.c.outcome == "answered")
        return self.store.rows(answered)[0][0]

    def counted(self) -> int:
        text = self.ask("GET", "/metrics", None)[1].decode()
        (line,) = [each for each in text.splitlines() if each.startswith("dptrain_queries_total")]
        return int(float(line.rpartition(" ")[2]))


@contextmanager
def two(folder: Path, guards: dict, **more: object) -> Iterator[Site]:
    """Two workers behind these guards, without keys."""
    store = Store(folder, more.get("url"))  # type: ignore[arg-type]
    work = partial(worker, folder, guards, {"keys": False, **more})
    listening = bound("127.0.0.1", 0)
    workers = Workers(work, listening, 2, imports=["services", "dptrain.serving.detection.guard"])
    with listening, working(workers):
        yield Site(listening.getsockname()[1], workers, store)
    store.close()


def test_counts_are_exact_over_two_workers_and_whoever_is_killed_takes_none_with_it(tmp_path):
    guards = {"record": Recording(), "budget": QueryBudget(per_key=400)}
    with two(tmp_path, guards) as site:
        assert site.ask()[0] == 200
        first = site.together(100, 1)
        assert first == {200: 100}
        assert site.spent() == site.recorded() == site.counted() == 101
        killed = site.workers.pids[0]

        def kill() -> None:
            while site.spent() < 200:
                time.sleep(0.002)
            os.kill(killed, signal.SIGKILL)

        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(kill)
            second = site.together(8, 20)
            ended.result()
        answered = 101 + second[200]
        assert second.keys() <= {0, 200}
        before = site.spent()
        assert answered <= before == site.recorded() <= answered + 8
        assert site.together(8, 50) == {200: 400 - before, 429: before}
        assert site.spent() == site.recorded() == 400
        assert until(lambda: len(site.workers.pids) == 2 and killed not in site.workers.pids)
        pids = site.workers.pids
    assert until(lambda: not any(exists(pid) for pid in pids))


def test_rates_in_redis_are_exact_over_two_workers_and_nothing_is_answered_without_it(tmp_path):
    with redis() as server:
        guards = {"rates": Rates(key=["120/hour"], storage=server.url), "budget": QueryBudget(per_key=MANY)}
        with two(tmp_path, guards) as site:
            assert site.together(100, 2) == {200: 120, 429: 80}
            server.kill()
            assert site.ask()[0] == 503
            server.start()  # and knows nothing of before

            def kill() -> None:
                while site.spent() < 150:
                    time.sleep(0.002)
                server.kill()

            with ThreadPoolExecutor(1) as pool:
                ended = pool.submit(kill)
                statuses = site.together(8, 15)
                ended.result()
            assert statuses.keys() == {200, 503}
            assert site.spent() == 120 + statuses[200]
            server.start()
            assert until(lambda: site.ask()[0] == 200)
            server.kill(signal.SIGSTOP)  # it hears, and says nothing
            assert site.ask()[0] == 503
            server.kill(signal.SIGCONT)


def test_budgets_in_postgresql_are_exact_over_two_workers(tmp_path):
    guards = {"record": Recording(), "budget": QueryBudget(per_key=150)}
    with postgres() as url, two(tmp_path, guards, url=url) as site:
        statuses = site.together(100, 2)
        assert statuses == {200: 150, 429: 50}
        assert site.spent() == site.recorded() == site.counted() == 150


def test_a_worker_that_cannot_start_is_started_ever_less_often(caplog):
    listening = bound("127.0.0.1", 0)
    with listening, working(Workers(idling.fail, listening, 1)):
        assert until(lambda: len(caplog.records) >= 3)
    said = [record.getMessage().partition(" ended ")[2] for record in caplog.records[:3]]
    assert said == [f"(7); another is started in {seconds} seconds" for seconds in (0, 1, 2)]


def test_a_worker_whose_start_fails_is_started_again(caplog, monkeypatch):
    """As where a signal to all processes of a group has ended the one that starts them."""
    listening = bound("127.0.0.1", 0)
    workers = Workers(idling.idle, listening, 1)
    made, failing = workers._context.Process, iter([EOFError(), BrokenPipeError()])

    def process(**given):
        one = made(**given)
        if (fault := next(failing, None)) is not None:
            one.start = mock.Mock(side_effect=fault)
        return one

    monkeypatch.setattr(workers._context, "Process", process)
    with listening, working(workers):
        assert until(lambda: len(workers.pids) == 1)
    assert [record.getMessage() for record in caplog.records] == [
        "a worker did not start (EOFError); another is started in 0 seconds",
        "a worker did not start (BrokenPipeError); another is started in 1 seconds",
    ]


def test_an_end_while_no_worker_can_start_is_one(monkeypatch):
    listening = bound("127.0.0.1", 0)
    workers = Workers(idling.idle, listening, 2)
    fails = mock.Mock(**{"return_value.start.side_effect": EOFError})
    monkeypatch.setattr(workers._context, "Process", fails)
    workers.stop()
    with listening, working(workers):
        assert until(lambda: not workers.pids)
    assert workers.pids == []


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(ending):
    command = [sys.executable, str(Path(__file__).with_name("idling.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(exists(pid) for pid in pids)
        parent.send_signal(ending)
        assert parent.wait(60) == (-9 if ending == signal.SIGKILL else 0)
    assert until(lambda: not any(exists(pid) for pid in pids))


def test_what_several_workers_cannot_keep_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"serve.workers=2 processes alone; .*storage=redis://HOST:PORT"):
        make_service(tmp_path, {"rates": Rates(key=["1/second"])}, workers=2)
    detection = Detection(detectors={"one": ClassConcentration()}, query_detectors=())
    with pytest.raises(ConfigError, match=r"serve.workers=2: .* have `record` after it"):
        make_service(tmp_path, {"detection": detection}, workers=2)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something is so before long."""
    last = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > last:
            return False
        time.sleep(0.02)
    return True
