"""The database of a service: a kept connection, statements made once, in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from servers import postgres
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from dptrain.serving.ledger import _SPEND
from dptrain.serving.recording import _INSERT
from dptrain.serving.store import QUERIES, SPENT, Store, Writer

ASKED = {"model": "m", "key": "k", "tenant": "t", "asked": 3}
ROW = {
    "at": 1.5, "key": "k", "tenant": "t", "model": "m", "outcome": "answered", "answer": 2,
    "sketch": b"\x00s'", "marks": b"\xff", "distance": 0.25, "raw": None,
}  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
def store(request, tmp_path) -> Iterator[Store]:
    with postgres() if request.param == "postgresql" else nullcontext() as url:
        made = Store(tmp_path, url)
        yield made
        made.close()


def test_statements_that_are_made_once_write_what_was_given(store):
    writer = Writer(store)
    with writer.writing() as connection:
        assert dict(_SPEND.rows(connection, ASKED)) == {"key": 3, "tenant": 3, "model": 3}
        _INSERT.many(connection, [ROW, {**ROW, "answer": None, "distance": None, "raw": b"r"}])
    with writer.writing() as connection:
        assert dict(_SPEND.rows(connection, {**ASKED, "key": "l"})) == {"key": 3, "tenant": 6, "model": 6}
    writer.close()
    first, second = store.rows(select(QUERIES).order_by(QUERIES.c.id))
    assert {name: first._mapping[name] for name in ROW} == ROW
    assert (second.answer, second.distance, second.raw) == (None, None, b"r")
    assert second.id > first.id


def test_an_exception_undoes_a_transaction_and_the_next_one_is_whole(store):
    writer = Writer(store)
    for fault in (KeyError, KeyboardInterrupt):
        with pytest.raises(fault), writer.writing() as connection:  # noqa: PT012
            _SPEND.rows(connection, ASKED)
            raise fault
    assert store.rows(select(SPENT)) == []
    with pytest.raises(DBAPIError, match="nowhere"), writer.writing() as connection:  # noqa: PT012
        _SPEND.rows(connection, ASKED)
        connection.execute(text("insert into nowhere values (1)"))
    with writer.writing() as connection:
        assert dict(_SPEND.rows(connection, ASKED))["key"] == 3
    writer.close()
    with writer.writing() as connection:  # a closed one opens again
        assert dict(_SPEND.rows(connection, ASKED))["key"] == 6
    writer.close()


def test_a_writer_does_not_keep_others_out_between_its_transactions(store):
    first, second = Writer(store), Writer(store)
    for turn in range(1, 4):
        for writer in (first, second):
            with writer.writing() as connection:
                spent = dict(_SPEND.rows(connection, ASKED))["key"]
        assert spent == 6 * turn
        with store.writing() as connection:
            assert connection.execute(select(SPENT.c.queries)).scalars().all() == [spent] * 3
    first.close()
    second.close()


@pytest.mark.e2e
def test_a_connection_that_the_database_ended_is_replaced_by_a_new_one(tmp_path):
    with postgres() as url:
        store = Store(tmp_path, url)
        writer = Writer(store)
        with writer.writing() as connection:
            process = connection.execute(text("select pg_backend_pid()")).scalar()
        with store.writing() as connection:
            connection.execute(text("select pg_terminate_backend(:process)"), {"process": process})
        ended = (DBAPIError, pytest.importorskip("psycopg").Error)
        with pytest.raises(ended):  # noqa: PT012
            for _ in range(100):  # until it has arrived
                with writer.writing() as connection:
                    _SPEND.rows(connection, ASKED)
        with writer.writing() as connection:
            assert dict(_SPEND.rows(connection, ASKED))["tenant"] % 3 == 0
        writer.close()
        store.close()
