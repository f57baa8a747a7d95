"""Rates and budgets: exact under many clients at once, shared by a tenant, outliving killed processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import requests
import torch
from services import SHAPE, make_service, served
from sqlalchemy import text

from dptrain.contracts import ConfigError
from dptrain.serving.guard import Query, Refused
from dptrain.serving.keys import ANYONE
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.rates import Rates
from dptrain.serving.windows import Windows

pytestmark = pytest.mark.e2e

ONE = json.dumps({"inputs": torch.zeros(1, *SHAPE).tolist()}).encode()
JSON = {"Content-Type": "application/json"}


def spent(service, scope="key") -> int:
    with service.store.reading() as connection:
        rows = connection.execute(text("select sum(queries) from spent where scope = :s"), {"s": scope})
        return rows.scalar() or 0


def test_a_hundred_clients_at_once_never_exceed_a_budget_by_one(website):
    with website({"budget": QueryBudget(per_key=150)}) as site, ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(site.ask, ONE) for _ in range(300)]
        statuses = [each.result().status_code for each in asked]
        assert spent(site.service) == 150
        assert site.get("/v1/key").json()["budgets"]["key"] == {"spent": 150, "left": 0}
    assert statuses.count(200) == 150
    assert statuses.count(429) == 150


def test_processes_that_share_a_database_share_a_budget(tmp_path):
    """Without the one thread of a service between them: transactions alone keep the count."""
    services = [make_service(tmp_path, {"budget": QueryBudget(per_key=50)}, keys=False) for _ in range(8)]

    def ask(number: int) -> int:
        from dptrain.serving.guard import Refused
        from dptrain.serving.keys import ANYONE

        answered = 0
        for _ in range(20):
            try:
                services[number].answer(ANYONE, ONE, "application/json")
                answered += 1
            except Refused:
                pass
        return answered

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 50
    assert spent(services[0]) == 50
    for each in services:
        each.close()


def test_a_batch_is_as_many_queries_as_records_and_is_answered_whole_or_not_at_all(website):
    with website({"budget": QueryBudget(per_key=10)}) as site:
        assert site.inputs(torch.zeros(8, *SHAPE)).status_code == 200
        assert site.inputs(torch.zeros(3, *SHAPE)).status_code == 429
        assert site.inputs(torch.zeros(2, *SHAPE)).status_code == 200
        assert spent(site.service) == 10


def test_keys_of_a_tenant_share_its_budget_and_all_that_of_the_model(website):
    with website({"budget": QueryBudget(per_tenant=3, per_model=5)}) as site:
        keys = site.service.keys
        colluding = [keys.make(tenant="gang", scopes=["predict"], days=None) for _ in range(4)]
        assert [site.ask(ONE, key=key).status_code for key in colluding] == [200, 200, 200, 429]
        # What one account refuses is taken from no other.
        assert spent(site.service, "key") == spent(site.service, "model") == 3
        assert [site.ask(ONE).status_code for _ in range(3)] == [200, 200, 429]


def test_neither_restart_nor_rotation_resets_a_budget_and_another_model_has_its_own(tmp_path):
    from dptrain.serving.guard import Refused

    guards = {"budget": QueryBudget(per_key=2)}

    def asked(service, key: str) -> int:
        try:
            service.answer(service.keys.caller(key), ONE, "application/json")
        except Refused as why:
            return why.status
        finally:
            service.close()
        return 200

    service = make_service(tmp_path, guards)
    key = service.keys.make(tenant="ward", scopes=["predict"], days=None)
    assert asked(service, key) == 200
    assert asked(make_service(tmp_path, guards), key) == 200
    service = make_service(tmp_path, guards)
    key = service.keys.rotate(key.split("_")[1])
    assert asked(service, key) == 429
    assert asked(make_service(tmp_path, guards, model=served(digest="1" * 64)), key) == 200


def test_what_is_answered_while_the_process_is_killed_was_counted(tmp_path):
    """kill -9 in the middle: counted >= answered, the excess at most what was in flight."""
    program = (
        "import sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from services import make_service\n"
        "from dptrain.serving.app import make_app\n"
        "from dptrain.serving.ledger import QueryBudget\n"
        "from dptrain.serving.server import bound, run, url_of\n"
        "service = make_service(Path(sys.argv[1]), {'budget': QueryBudget(per_key=100000)}, keys=False)\n"
        "listening = bound('127.0.0.1', 0); print(url_of(listening), flush=True)\n"
        "run(make_app(service), listening)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    url = process.stdout.readline().strip()
    service = make_service(tmp_path, {}, keys=False)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(until_it_dies, url) for _ in range(8)]
        while spent(service) < 100 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        answered = sum(each.result() for each in asked)
    process.wait()
    process.stdout.close()
    counted = spent(service)
    service.close()
    assert answered > 50
    assert answered <= counted <= answered + 8


def until_it_dies(url: str) -> int:
    """Ask from the first answer until nobody answers any more; how many answers came."""
    answered = 0
    with requests.Session() as session:
        session.trust_env = False
        while True:
            try:
                answered += (
                    session.post(f"{url}/v1/predict", ONE, headers=JSON, timeout=10).status_code == 200
                )
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):  # or half an answer
                if answered:
                    return answered
                time.sleep(0.02)  # it binds its port, and then starts


def test_rates_by_key_and_by_tenant(website):
    with website({"rates": Rates(key=["5/hour"], tenant=["8/hour"])}) as site:
        other = site.service.keys.make(tenant="ward", scopes=["predict"], days=None)
        with ThreadPoolExecutor(10) as pool:
            mine = [each.status_code for each in pool.map(lambda _: site.ask(ONE), range(10))]
        theirs = [site.ask(ONE, key=other) for _ in range(4)]
        assert mine.count(200) == 5
        assert [each.status_code for each in theirs] == [200, 200, 200, 429]
        refused = site.ask(ONE)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        fresh = site.service.keys.make(tenant="another", scopes=["predict"], days=None)
        assert site.inputs(torch.zeros(6, *SHAPE), key=fresh).status_code == 413


@pytest.mark.parametrize("wrong", [{"key": ["often"]}, {"tenant": ["5"]}])
def test_a_rate_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="is no rate; give such as 20/second"):
        Rates(**wrong)


def surrounded(workers: int = 1) -> Any:
    return SimpleNamespace(workers=workers, model="m")


@pytest.mark.parametrize("storage", ["memory://", "MEMORY://", "Memory://here"])
def test_memory_is_this_package_s_however_it_is_spelt_and_of_one_process(storage):
    assert type(Rates(storage=storage).start(surrounded())._limiter.storage) is Windows
    with pytest.raises(ConfigError, match=r"serve.workers=2 processes alone"):
        Rates(storage=storage).start(surrounded(workers=2))


@pytest.mark.parametrize(
    "storage",
    [
        "redis://h:abc",
        "redis://127.0.0.1:1?db=x",
        "redis://[::1",
        "redis://127.0.0.1:1",
        "REDIS://127.0.0.1:1",
        "redis+cluster://127.0.0.1:1",
        "async+memory://",
        "nothing://h",
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(storage):
    with pytest.raises(ConfigError, match=r"serving.rates.storage=.* cannot be used \(.+\)"):
        Rates(storage=storage).start(surrounded())


@pytest.mark.parametrize(
    "storage", ["redis://:hus#h@h:1", "nothing://me:hush@h", "redis://:hush@127.0.0.1:1"]
)
def test_no_part_of_a_password_is_told_of_a_storage(storage):
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        Rates(storage=storage).start(surrounded())
    assert "hus" not in str(caught.value)


def test_a_batch_is_told_when_there_is_room_for_all_of_it():
    limits = Rates(key=["4/minute"]).start(surrounded())
    with mock.patch("dptrain.serving.windows.monotonic", return_value=1000.0) as clock:
        for count, later in ((1, 10.0), (3, 5.0)):
            limits.before(Query(caller=ANYONE, inputs=torch.zeros(count, 2), at=0.0))
            clock.return_value += later
        for count, seconds in ((1, 45.0), (2, 55.0), (4, 55.0)):
            with pytest.raises(Refused) as caught:
                limits.before(Query(caller=ANYONE, inputs=torch.zeros(count, 2), at=0.0))
            assert caught.value.retry_after == seconds
        clock.return_value += 55.001
        limits.before(Query(caller=ANYONE, inputs=torch.zeros(4, 2), at=0.0))
