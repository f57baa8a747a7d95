"""The database of a service: a kept connection, statements made once, in SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from unittest import mock

import pytest
from servers import postgres
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from dptrain.contracts import ConfigError
from dptrain.serving.ledger import _SPEND
from dptrain.serving.recording import _INSERT
from dptrain.serving.store import FILE, Store, Writer
from dptrain.serving.tables import METADATA, QUERIES, SPENT

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


def test_a_connection_whose_commit_failed_is_not_used_again(store):
    writer = Writer(store)
    with writer.writing() as connection:
        _SPEND.rows(connection, ASKED)
    dialect = store.engine.dialect
    fault = sqlite3.OperationalError("disk I/O error")
    with (
        mock.patch.object(dialect, "do_commit", side_effect=fault),
        pytest.raises((sqlite3.Error, DBAPIError), match="disk I/O error"),
        writer.writing() as connection,
    ):
        _SPEND.rows(connection, ASKED)
    with writer.writing() as connection:
        assert dict(_SPEND.rows(connection, ASKED))["key"] == 6  # what was not committed is undone
    writer.close()
    with store.writing() as connection:  # and keeps nobody out
        assert connection.execute(select(SPENT.c.queries)).scalars().all() == [6] * 3


def test_counts_and_numbers_of_rows_outgrow_32_bits(store):
    large = 2**31 - 2
    with store.writing() as connection:
        _SPEND.rows(connection, {**ASKED, "asked": large})
        connection.execute(QUERIES.insert().values(id=large * 2, **ROW))
        assert dict(_SPEND.rows(connection, ASKED))["key"] == large + 3


def test_a_file_that_a_url_names_is_its_owner_s_alone(tmp_path):
    Store(tmp_path, f"sqlite:///{tmp_path}/other.db").close()
    assert stat.S_IMODE((tmp_path / "other.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="a database of its own; name a file: sqlite:///PATH"):
        Store(tmp_path, url)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite:////nowhere/at/all.db",
        "sqlite:///x.db?timeout=long",
        "postgresql+psycopg://me:hush@127.0.0.1:abc/x",
        "postgresql+psycopg://me:hush@127.0.0.1:1/x",
        "postgresql+psycopg://me:hush@127.0.0.1:1/x?foo=bar",
        "postgresql+psycopg://me:s@hush@127.0.0.1:1/x",
        "mysql+nothing://me:hush@h/x",
    ],
)
def test_what_cannot_be_opened_is_refused_and_no_password_told(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"serve.store=.* cannot be used \(.+\)") as caught:
        Store(tmp_path, url)
    assert "hush" not in str(caught.value)


def test_a_file_that_is_no_database_and_a_folder_that_is_none_are_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=r"serve.store=.* cannot be used \(.*not a database"):
        Store(tmp_path)
    with pytest.raises(ConfigError, match=r"serve.folder=.* cannot be made \(File exists\)"):
        Store(tmp_path / FILE)
    with pytest.raises(ConfigError, match=r"serve.folder=.* cannot be made \(Not a directory\)"):
        Store(tmp_path / FILE / "below")


@pytest.mark.e2e
def test_services_that_start_at_once_do_not_make_the_same_tables(tmp_path):
    with postgres() as url, ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            for made in pool.map(lambda _: Store(tmp_path, url), range(4)):
                made.close()
            store = Store(tmp_path, url)
            with store.writing() as connection:
                METADATA.drop_all(connection)
            store.close()


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
