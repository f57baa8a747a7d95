"""Statements of a service's database that every answer executes, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.sql.compiler import SQLCompiler


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
