"""The database of a service: keys, counts of queries, records of what was asked, alarms.

SQLite in the service's folder, or PostgreSQL by URL. What was asked is personal data, of whoever asked and of
whoever was asked about: the file is readable by its owner alone, and records are purged after so many days.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ClauseElement,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.sql.compiler import SQLCompiler

from dptrain.contracts import ConfigError
from dptrain.redaction import redact

FILE = "serving.sqlite"
BUSY_SECONDS = 30  # that a writer waits for another

_IN_TURN = text("select pg_advisory_xact_lock(hashtextextended(:name, 0))")

METADATA = MetaData()
KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),  # HMAC-SHA-256 of the whole key under the server's secret
    Column("tenant", String(80), nullable=False),
    Column("scopes", String(80), nullable=False),  # separated by spaces
    Column("made", Float, nullable=False),  # all times in seconds since the epoch
    Column("expires", Float),
    Column("revoked", Float),
    Column("locked", String(200)),  # why, where it is
)
SPENT = Table(
    "spent",
    METADATA,
    Column("scope", String(8), primary_key=True),  # key, tenant or model
    Column("name", String(80), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("queries", Integer, nullable=False),
)
QUERIES = Table(
    "queries",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("key", String(16), nullable=False),
    Column("tenant", String(80), nullable=False),
    Column("model", String(64), nullable=False),
    Column("outcome", String(20), nullable=False),  # answered, coarse, or why it was refused
    Column("answer", Integer),  # the class that was named; none of other tasks and of what was refused
    Column("sketch", LargeBinary),  # a random projection of the input, float32
    Column("marks", LargeBinary),  # fingerprints of its parts, uint64
    Column("distance", Float),  # off the manifold of normal inputs
    Column("raw", LargeBinary),  # the input itself, float32, only where that is switched on
    Index("queries_by_time", "at"),
    Index("queries_by_tenant", "tenant", "id"),
)
ALARMS = Table(
    "alarms",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("scope", String(8), nullable=False),
    Column("name", String(80), nullable=False),
    Column("model", String(64), nullable=False),
    Column("queries", Integer, nullable=False),  # of the session, when it was noticed
    Column("score", Float, nullable=False),  # probability that a normal session looks so odd
    Column("reason", String(300), nullable=False),
    Column("acknowledged", Float),
)


class Store:
    """A database with those tables; `url` None: SQLite in the folder."""

    def __init__(self, folder: Path, url: str | None = None, *, durable: bool = False) -> None:
        """Open it, and make what is missing; raises ConfigError where it cannot be reached.

        `durable` waits for the disk at each commit: counts then outlive a power failure too, and not only the
        death of a process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.local = url is None  # to this machine
        try:
            if url is None:
                path = folder / FILE
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                url = f"sqlite:///{path}"
            self.engine = _opened(url, durable=durable)
            with self.engine.begin() as connection:
                METADATA.create_all(connection)
                for index in QUERIES.indexes:  # of a table that was there before them, too
                    index.create(connection, checkfirst=True)
        except (ArgumentError, NoSuchModuleError, ImportError, OperationalError, OSError) as error:
            first = redact(str(error).splitlines()[0])
            raise ConfigError(
                f"serve.store={redact(url or str(folder / FILE))} cannot be used ({first}); give null, or "
                "the URL of a database whose driver is installed"
            ) from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, and undone on any exception; writers wait in line."""
        with self.engine.begin() as connection:
            yield connection

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
        with self._kept.begin():  # which finds a connection that broke, and opens another
            yield self._kept

    def close(self) -> None:
        """Give the connection back."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class Prepared:
    """A statement in the database's own words, which are made once.

    What SQLAlchemy does about each execution beside these takes four times as long as SQLite does.
    """

    def __init__(self, statement: ClauseElement, columns: Sequence[str] | None = None) -> None:
        """`columns` that an insert gives values for; None: all that the statement names."""
        self._statement, self._columns = statement, columns
        self._made: dict[str, tuple[str, list[str] | None]] = {}

    def rows(self, connection: Connection, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """What it returns of these values, by the names of its parameters."""
        cursor = connection.connection.cursor()
        try:
            words, places = self._words(connection)
            cursor.execute(words, _placed(values, places))
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def many(self, connection: Connection, every: Sequence[Mapping[str, object]]) -> None:
        """Have it done for each of these."""
        cursor = connection.connection.cursor()
        try:
            words, places = self._words(connection)
            cursor.executemany(words, [_placed(values, places) for values in every])
        finally:
            cursor.close()

    def _words(self, connection: Connection) -> tuple[str, list[str] | None]:
        name = connection.dialect.name
        if name not in self._made:
            made = self._statement.compile(dialect=connection.dialect, column_keys=self._columns)
            assert isinstance(made, SQLCompiler)
            self._made[name] = str(made), made.positiontup
        return self._made[name]


def _placed(values: Mapping[str, object], places: list[str] | None) -> Any:
    return values if places is None else tuple([values[name] for name in places])


def _opened(url: str, *, durable: bool) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

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
