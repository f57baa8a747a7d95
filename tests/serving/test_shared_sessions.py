"""Sessions over several workers: each knows what others were asked, alarms once, forgets what is over."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from servers import postgres
from services import SHAPE, make_service
from sqlalchemy import select, text

from dptrain.serving.detection.calibration import Calibration
from dptrain.serving.detection.detectors import ClassConcentration, Distances, NearDuplicates, OffManifold
from dptrain.serving.detection.features import Facts
from dptrain.serving.detection.guard import Detection
from dptrain.serving.detection.history import History
from dptrain.serving.detection.sessions import Sessions, _Tenant
from dptrain.serving.guard import Query, Refused, Started
from dptrain.serving.keys import ANYONE, Caller
from dptrain.serving.recording import Recording
from dptrain.serving.tables import ALARMS, KEYS

pytestmark = pytest.mark.run

DETECTORS = {
    "off_manifold": OffManifold(),
    "near_duplicates": NearDuplicates(),
    "distances": Distances(),
    "concentration": ClassConcentration(),
}
WATCHED = {
    "detectors": DETECTORS, "length": 40, "checks": (10, 20), "sessions": 60, "session_false_alarms": 0.05,
    "query_action": "log",
}  # fmt: skip
KEY = ("key", "anyone")


def inputs(count: int, seed: int) -> torch.Tensor:
    return 0.3 * torch.rand(count, 64, generator=torch.Generator().manual_seed(seed))


def odd(count: int) -> torch.Tensor:
    return torch.rand(count, 64, generator=torch.Generator().manual_seed(1))


def ask(service, rows: torch.Tensor, caller: Caller = ANYONE) -> list:
    body = json.dumps({"inputs": rows.view(-1, *SHAPE).tolist()}).encode()
    return service.answer(caller, body, "application/json")[0]["predictions"]


@pytest.fixture
def several(tmp_path):
    """Makes services of one store, as if each were in a process of its own."""
    with ExitStack() as stack:

        def made(
            count: int, *, folder: str = "", url: str | None = None, last: Started | None = None, **more
        ):
            changes = {"clock": more.pop("clock")} if "clock" in more else {}
            guards = {"detection": Detection(**{**WATCHED, **more}), "record": Recording()}
            services = []
            for _ in range(count):
                one = make_service(
                    tmp_path / folder,
                    guards,
                    calibration=inputs(200, 9),
                    keys=False,
                    workers=count,
                    url=url,
                    **changes,
                )  # fmt: skip
                if last is not None:
                    one.guards = {**one.guards, "last": last}
                stack.callback(one.close)
                services.append(one)
            return services

        yield made


def session(service, scope=KEY):
    return service.guards["detection"].sessions.every[scope]


def test_workers_that_are_asked_in_turn_have_the_session_of_one_that_is_asked_all(several):
    first, second = several(2)
    (alone,) = several(1, folder="alone")
    for place, rows in enumerate(inputs(30, 3).split([1, 2, 3, 1, 1, 4, 5, 6, 6, 1])):
        ask((first, second)[place % 2], rows)
        ask(alone, rows)
    one, other = session(second), session(alone)
    assert one.count == other.count == 30
    assert one.answers == other.answers
    assert dict(one.sums) == pytest.approx(dict(other.sums), rel=1e-6)
    assert np.array_equal(one.sketches, other.sketches)
    assert one.score == pytest.approx(other.score)
    ask(first, inputs(10, 4))
    ask(second, inputs(1, 5))
    assert session(second).count == 1  # the one before was full


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_queries_at_once_are_each_in_every_worker_s_session(several, database):
    with postgres() if database == "postgresql" else nullcontext() as url:
        workers = several(2, url=url, length=200)
        rows = inputs(60, 3).split(1)
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    lambda each: [ask(each[0], row) for row in each[1]],
                    zip(workers, (rows[:30], rows[30:]), strict=True),
                )
            )
        for each in workers:
            ask(each, inputs(1, 4))
        ask(workers[0], inputs(1, 5))
        counts = [session(each).count for each in workers]
        assert counts == [63, 62]
        if database == "postgresql":
            wait_for_each_other(workers)
        kept = [np.sort(session(each).sketches[:61], axis=0) for each in workers]
        assert np.array_equal(*kept)
        for each in workers:  # before their database is gone
            each.close()


def wait_for_each_other(workers) -> None:
    """A transaction of a tenant waits for another's end, one of another tenant does not."""
    first, second = (each.store for each in workers)

    def turn(name: str) -> None:
        with second.writing() as connection:
            second.in_turn(connection, name)

    waiting = text("select count(*) from pg_locks where locktype = 'advisory' and not granted")
    with ThreadPoolExecutor(1) as pool:
        with first.writing() as connection:
            first.in_turn(connection, "t")
            pool.submit(turn, "other").result()
            asked = pool.submit(turn, "t")
            while not asked.done() and not first.rows(waiting)[0][0]:
                time.sleep(0.01)
            assert not asked.done()
        asked.result()


def test_an_alarm_is_raised_once_and_known_to_all_at_once(several):
    first, second = several(2, actions=("coarsen",))
    prior = [[pytest.approx(1 / 3)] * 3]
    rows = odd(20).split(1)
    before = [ask((first, second)[place % 2], row) == prior for place, row in enumerate(rows[:9])]
    assert not any(before)
    ask(second, rows[9])  # the tenth
    alarms = first.store.rows(select(ALARMS))
    assert {(each.scope, each.queries) for each in alarms} == {("key", 10), ("tenant", 10)}
    assert all(ask((first, second)[place % 2], row) == prior for place, row in enumerate(rows[10:]))
    assert len(first.store.rows(select(ALARMS))) == 2


def test_an_alarm_is_kept_where_a_later_guard_refuses_the_query(several):
    class Last(Started):
        def after(self, query: Query, answers, connection):  # noqa: ARG002
            raise Refused(429, "budget", "No more.")

    (service,) = several(1, actions=("lock",), last=Last())
    name = "0" * 8
    with service.store.writing() as connection:
        connection.execute(KEYS.insert().values(id=name, digest="", tenant="t", scopes="predict", made=0.0))
    with pytest.raises(Refused, match="No more"):
        ask(service, odd(16), Caller(key=name, tenant="t", scopes=frozenset({"predict"})))
    assert {each.scope for each in service.store.rows(select(ALARMS))} == {"key", "tenant"}
    assert service.store.rows(select(KEYS.c.locked)) == [("probing was noticed",)]


def test_sessions_that_are_over_are_forgotten(several):
    class Clock:
        now = time.time()

        def __call__(self) -> float:
            self.now += 0.001
            return self.now

    clock = Clock()
    (service,) = several(1, clock=clock)
    for number in range(5):
        ask(service, inputs(1, number), Caller(key=f"k{number}", tenant=f"t{number % 2}", scopes=frozenset()))
    watch = service.guards["detection"]
    assert len(watch.sessions.every) == 7
    clock.now += 86399
    ask(service, inputs(1, 1), Caller(key="k1", tenant="t1", scopes=frozenset()))
    clock.now += 601
    ask(service, inputs(1, 1), Caller(key="k9", tenant="t9", scopes=frozenset()))
    assert set(watch.sessions.every) == {("key", "k1"), ("tenant", "t1"), ("key", "k9"), ("tenant", "t9")}
    assert session(service, ("key", "k1")).count == 2


CLASSES = {"concentration": ClassConcentration()}
RANGES = {f"concentration{tail}": (-1.0, 0.0, 1.0) for tail in ("", ": odd, low", ": odd, high")}


def fact(answer: int) -> Facts:
    return Facts(
        sketch=np.full((1, 32), answer, np.float32), marks=np.zeros((1, 24), np.uint64),
        distance=np.ones(1), answer=np.array([answer]),
    )  # fmt: skip


@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([1.0, 30.0])), max_size=40
    )
)
def test_a_session_that_two_scopes_share_is_what_each_would_have_alone(asked):
    """A tenant who asks by one key has its session, until another key asks; pauses and lengths end both."""
    calibration = Calibration(
        checks=(2, 5), ranges={2: RANGES, 5: RANGES}, null=np.zeros(1), session_threshold=9.0,
        query_thresholds={}, tails={"concentration": (0.2, 0.8)},
    )  # fmt: skip
    sessions = Sessions(None, "m", CLASSES, calibration, length=6, gap_seconds=20.0, shared=False)
    alone: dict[tuple[str, str], History] = {}
    tenant, now = _Tenant(read=0), 0.0
    sessions._tenants["t"] = tenant
    for key, answer, pause in asked:
        now += pause
        scores = {}
        for scope in (("key", key), ("tenant", "t")):
            one = alone.get(scope)
            if one is None or one.count >= 6 or now - one.at > 20.0:
                one = alone[scope] = History(6, calibration.tails)
            one.at = now
            scores[scope] = one.add(fact(answer), CLASSES)
        caller = Caller(key=key, tenant="t", scopes=frozenset())
        query = Query(caller=caller, inputs=torch.zeros(1), at=now)
        assert sessions.add(query, fact(answer)) == scores["key", key]
        for scope, one in alone.items():
            kept = sessions.of("t", scope)
            assert (kept.count, kept.at, kept.sums, kept.answers) == (
                one.count, one.at, one.sums, one.answers,
            )  # fmt: skip


def test_an_alarm_is_raised_of_the_key_and_of_its_tenant_though_they_share_a_session(several):
    (one,) = several(1)
    ask(one, odd(16))
    assert [(row.scope, row.queries) for row in one.store.rows(select(ALARMS))] == [
        ("key", 10), ("tenant", 10),
    ]  # fmt: skip
