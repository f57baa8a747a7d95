"""The database of a service: SQLite in its folder, or PostgreSQL by URL.

What was asked is personal data, of whoever asked and of whoever was asked about: the file is readable by its
owner alone, and records are purged after so many days.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dptrain.contracts import ConfigError
from dptrain.redaction import redact
from dptrain.serving.tables import METADATA, QUERIES

FILE = "serving.sqlite"
BUSY_SECONDS = 30  # that a writer waits for another
CONNECT_SECONDS = 10  # that PostgreSQL may take to answer, where its URL says nothing

# What drivers and SQLAlchemy raise of an address, a file or a server that is not as it should be.
_FAULTS = (SQLAlchemyError, sqlite3.Error, ValueError, TypeError, ImportError, OSError)
_IN_TURN = text("select pg_advisory_xact_lock(hashtextextended(:name, 0))")


class Store:
    """A database with the tables of a service; `url` None: SQLite in the folder."""

    def __init__(self, folder: Path, url: str | None = None, *, durable: bool = False) -> None:
        """Open it, and make what is missing; raises ConfigError where it cannot be reached.

        `durable` waits for the disk at each commit: counts then outlive a power failure too, and not only the
        death of a process.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"serve.folder={folder} cannot be made ({error.strerror}); name another folder"
            ) from None
        self.local = url is None  # to this machine
        try:
            address = URL.create("sqlite", database=str(folder / FILE)) if url is None else _parsed(url)
            self.engine = _opened(address, durable=durable)
            try:
                self._make_tables()
            except BaseException:
                self.close()
                raise
        except _FAULTS as error:
            first = redact((str(error).splitlines() or [type(error).__name__])[0])
            raise ConfigError(
                f"serve.store={redact(url or str(folder / FILE))} cannot be used ({first}); give null, or "
                "the URL of a database whose driver is installed"
            ) from None

    @cached_property
    def faults(self) -> tuple[type[BaseException], ...]:
        """What a database that is away raises: the driver's own errors too, of statements made once."""
        return SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, and undone on any exception; writers wait in line."""
        with self.engine.begin() as connection:
            yield connection

    def _make_tables(self) -> None:
        """Make the tables and indexes that are missing; of several that start, one after the other."""
        with self.writing() as connection:
            self.in_turn(connection, "dptrain tables")
            METADATA.create_all(connection)
            for index in QUERIES.indexes:  # of a table that was there before them, too
                index.create(connection, checkfirst=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that writes nothing, and waits for nobody who does."""
        with self.engine.connect() as connection:
            yield connection.execution_options(reading=True)

    @staticmethod
    def in_turn(connection: Connection, name: str) -> None:
        """From here to their ends, have transactions of this name follow one another; SQLite's do anyway."""
        if connection.dialect.name == "postgresql":
            connection.execute(_IN_TURN, {"name": name})

    def rows(self, query: Any) -> list[Any]:
        """What a query finds."""
        with self.reading() as connection:
            return list(connection.execute(query))

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()


class Writer:
    """Transactions of one thread, over a connection that is kept between them: that halves their time."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        self._kept: Connection | None = None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, and undone on any exception; writers wait in line."""
        if self._kept is None:
            self._kept = self._engine.connect()
        raised: BaseException | None = None
        try:
            with self._kept.begin():  # which finds a connection that broke, and opens another
                try:
                    yield self._kept
                except BaseException as error:
                    raised = error
                    raise
        except BaseException as error:
            if error is not raised:  # it could not begin or end: who knows what the connection is in
                self._drop()
            raise

    def _drop(self) -> None:
        """Close the connection to the database itself, which undoes what was not committed."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.invalidate()
            kept.close()

    def close(self) -> None:
        """Give the connection back."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def _parsed(url: str) -> URL:
    """A URL that can be opened; errors tell nothing of it that may be a part of a password."""
    try:
        parsed = make_url(url)
    except ValueError:
        raise ArgumentError("its port is no number") from None
    if "@" in (parsed.host or ""):
        raise ArgumentError("an @ in a password is written %40")
    if parsed.get_backend_name() == "sqlite":
        path = parsed.database
        if not path or path == ":memory:" or path.startswith("file:") or "uri" in parsed.query:
            raise ArgumentError("each thread would have a database of its own; name a file: sqlite:///PATH")
    return parsed


def _connecting(url: URL) -> dict[str, Any]:
    """What the driver is told in addition: how long to wait for a server, where nothing else says so."""
    if url.drivername not in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        return {}
    said = "connect_timeout" in url.query or "PGCONNECT_TIMEOUT" in os.environ
    return {} if said else {"connect_timeout": CONNECT_SECONDS}


def _opened(url: URL, *, durable: bool) -> Engine:
    engine = create_engine(url, connect_args=_connecting(url))
    if engine.dialect.name == "sqlite":
        assert url.database is not None
        os.close(os.open(url.database, os.O_WRONLY | os.O_CREAT, 0o600))

        @event.listens_for(engine, "connect")
        def settle(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions begin where `begin` says so
            for pragma in (
                "journal_mode=wal",
                f"synchronous={'full' if durable else 'normal'}",
                f"busy_timeout={BUSY_SECONDS * 1000}",
                "secure_delete=on",  # what is purged is overwritten
            ):
                connection.execute(f"pragma {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # Of writers at once and not at the first write: two that have read would both be refused.
            reading = connection.get_execution_options().get("reading")
            raw: Any = connection.connection.driver_connection
            raw.execute("begin" if reading else "begin immediate")

    return engine
