"""A database that is away, or fails once: nothing is answered, nothing of it is told, nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import numpy as np
import pytest
import torch
from services import SHAPE, make_service
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from test_detection import QUICK, body

from dptrain.contracts import DptrainError
from dptrain.serving import service as module
from dptrain.serving.detection.guard import Detection
from dptrain.serving.guard import Refused, Started
from dptrain.serving.keys import ANYONE, DAY
from dptrain.serving.ledger import QueryBudget
from dptrain.serving.recording import Recording
from dptrain.serving.tables import ALARMS, QUERIES

INPUTS = torch.zeros(1, *SHAPE)
GUARDS = {"record": Recording(), "budget": QueryBudget(per_key=100)}


def break_off(service) -> list[bool]:
    """Have each transaction and each statement of a service fail while the list holds True."""
    away = [True]

    def fail(*_: object) -> None:
        if away[0]:
            raise sqlite3.OperationalError("the path is /secret")

    event.listen(service.store.engine, "begin", fail)
    event.listen(service.store.engine, "before_cursor_execute", fail)
    return away


@pytest.mark.e2e
def test_a_database_that_is_away_is_a_503_everywhere_and_counted_again_when_it_is_back(website, caplog):
    with website(GUARDS) as site:
        made = site.service.keys.make
        admin = made(tenant="ops", scopes=["admin"], days=None)
        metrics = made(tenant="ops", scopes=["metrics"], days=None)
        assert site.inputs(INPUTS).status_code == 200
        away = break_off(site.service)
        answered = [site.inputs(INPUTS), site.get("/v1/key")]  # by a key that is known yet
        site.service.keys._forget()
        answered += [site.inputs(INPUTS), site.inputs(INPUTS, "unknown"), site.get("/v1/key")]
        answered += [site.get("/metrics", metrics), site.get("/admin", admin)]
        for each in answered:
            assert each.status_code == 503
            assert each.headers["retry-after"] == "1"
            assert each.json()["detail"].startswith("What keeps the counts cannot be reached")
        away[0] = False
        assert site.inputs(INPUTS).status_code == 200
        assert site.get("/v1/key").json()["budgets"]["key"]["spent"] == 2
    assert "OperationalError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.e2e
def test_a_statement_that_is_made_once_fails_as_any_other(website, monkeypatch):
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with website(GUARDS) as site, monkeypatch.context() as patched:
        patched.setattr("dptrain.serving.prepared.Prepared.rows", fail)
        assert site.inputs(INPUTS).status_code == 503
        patched.undo()
        assert site.get("/v1/key").json()["budgets"]["key"]["spent"] == 0


def test_a_refusal_stays_one_where_it_cannot_be_recorded(tmp_path):
    service = make_service(tmp_path, {"record": Recording()}, keys=False)
    break_off(service)
    with pytest.raises(Refused) as why:
        service.answer(ANYONE, b"{", "application/json")
    service.close()
    assert why.value.status == 400


@pytest.mark.e2e
def test_a_ledger_of_answers_that_is_away_is_a_503(website):
    def left() -> int:
        raise DptrainError("its path is /secret")

    with website() as site:
        object.__setattr__(site.service.model, "left", left)
        assert site.get("/v1/key").status_code == 503


@pytest.mark.e2e
def test_records_are_purged_of_a_service_that_nobody_asks(website, monkeypatch, caplog):
    class Failing(Started):
        def tidy(self, now: float) -> None:  # noqa: ARG002
            raise sqlite3.OperationalError("the path is /secret")

    monkeypatch.setattr(module, "TIDY_SECONDS", 0.2)
    now = [time.time()]
    with website({"record": Recording(days=2)}, clock=lambda: now[0]) as site:
        site.service.guards = {"failing": Failing(), **site.service.guards}
        assert site.inputs(INPUTS).status_code == 200
        now[0] += 2 * DAY + 1
        began = time.monotonic()
        while site.service.store.rows(select(QUERIES)):
            assert time.monotonic() - began < 10
            time.sleep(0.02)
    assert "failing did not purge what is old: OperationalError" in caplog.text
    assert "secret" not in caplog.text


def test_what_is_old_is_purged_at_the_start(tmp_path):
    purged = []

    class Counting(Started):
        def tidy(self, now: float) -> None:
            purged.append(now)

    async def start() -> None:
        task = asyncio.create_task(service.keep_tidy())
        while not purged:
            await asyncio.sleep(0.01)
        task.cancel()

    service = make_service(tmp_path, clock=lambda: 5.0)
    service.guards = {"counting": Counting()}
    asyncio.run(start())
    service.close()
    assert purged == [5.0]


@pytest.mark.run
@pytest.mark.parametrize("again", [False, True])
def test_an_alarm_outlives_a_transaction_that_fails(tmp_path, again):
    """With the refusal that undoes it, or later; once, and whether or not it has been seen meanwhile."""

    class Failing(Started):
        fails = False

        def after(self, query, answers, connection):  # noqa: ARG002
            if self.fails:
                raise Refused(429, "budget", "No.") if again else OperationalError("x", {}, Exception())
            return answers

    failing = Failing()
    rng = np.random.default_rng(9)
    calm = torch.from_numpy(0.3 * rng.random((400, 64), np.float32))
    guards = {"detection": Detection(**QUICK, query_action="log")}
    service = make_service(tmp_path, guards, calibration=calm, keys=False)
    service.guards = {**service.guards, "failing": failing}
    noise = torch.rand(13, 64, generator=torch.Generator().manual_seed(1))
    alarms = []
    for number, each in enumerate(noise):
        failing.fails = number == 9  # at the first check
        try:
            service.answer(ANYONE, body(each[None]), "application/json")
        except (Refused, OperationalError):
            assert failing.fails
        alarms.append([row.scope for row in service.store.rows(select(ALARMS))])
        if number == 10:
            with service.store.writing() as connection:
                connection.execute(ALARMS.update().values(acknowledged=time.time()))
    service.close()
    both = ["key", "tenant"]
    assert alarms == [[]] * 9 + [both if again else [], both, both, both]
