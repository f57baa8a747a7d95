"""Budgets of queries for life, counted in the database: by key, by tenant, and of the model as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select, text
from torch import Tensor

from dptrain.contracts.ranges import Count
from dptrain.serving.guard import Query, Refused, Started, Surroundings
from dptrain.serving.keys import Caller
from dptrain.serving.store import SPENT, Store

NO_LIMIT = 2**62

_OPEN = text(
    "insert into spent (scope, name, model, queries) values (:scope, :name, :model, 0) on conflict do nothing"
)
_SPEND = text(
    "update spent set queries = queries + :asked where scope = :scope and name = :name and model = :model "
    "and queries + :asked <= :most"
)
_READ = select(SPENT.c.queries).where(
    SPENT.c.scope == bindparam("scope"),
    SPENT.c.name == bindparam("name"),
    SPENT.c.model == bindparam("model"),
)


@dataclass(frozen=True, kw_only=True)
class QueryBudget:
    """The most that may ever be asked of a model, in records; null: any number, which is counted too.

    A count is committed before its answer is given, in one transaction with what is recorded of it, and
    is kept by the digest of the weights: no restart, killed process or rotated key resets it. What is
    counted is what is answered, or was about to be when the process died.
    """

    per_key: Count | None = None
    per_tenant: Count | None = None
    per_model: Count | None = None

    def start(self, surroundings: Surroundings) -> Ledger:
        return Ledger(self, surroundings.store, surroundings.model)


class Ledger(Started):
    """Spends the budgets."""

    def __init__(self, limits: QueryBudget, store: Store, model: str) -> None:
        self._limits, self._store, self._model = limits, store, model

    def arrived(self, query: Query) -> None:
        """Refuse who has nothing left, before a body is read."""
        with self._store.reading() as connection:
            for scope, name, most in self._accounts(query.caller):
                if most < NO_LIMIT and self._spent(connection, scope, name) >= most:
                    raise self._refusal(scope)

    def before(self, query: Query) -> None:
        """Refuse early what is sure to be refused: the model need not be asked."""
        with self._store.reading() as connection:
            for scope, name, most in self._accounts(query.caller):
                if most < NO_LIMIT and self._spent(connection, scope, name) + query.count > most:
                    raise self._refusal(scope)

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:
        """Count the query on every account, or on none where one would be overdrawn."""
        for scope, name, most in self._accounts(query.caller):
            account = {"scope": scope, "name": name, "model": self._model}
            connection.execute(_OPEN, account)
            if not connection.execute(_SPEND, {**account, "asked": query.count, "most": most}).rowcount:
                raise self._refusal(scope)
        return answers

    def state(self, caller: Caller) -> dict[str, dict[str, int | None]]:
        """What a caller has spent and has left, by account; of the whole model what is left."""
        with self._store.reading() as connection:
            found = {}
            for scope, name, most in self._accounts(caller):
                spent = self._spent(connection, scope, name)
                left = None if most == NO_LIMIT else max(0, most - spent)
                found[scope] = {"left": left} if scope == "model" else {"spent": spent, "left": left}
            return found

    def _spent(self, connection: Connection, scope: str, name: str) -> int:
        found = connection.execute(_READ, {"scope": scope, "name": name, "model": self._model}).scalar()
        return found or 0

    def _accounts(self, caller: Caller) -> Iterator[tuple[str, str, int]]:
        limits = self._limits
        for scope, name, most in (
            ("key", caller.key, limits.per_key),
            ("tenant", caller.tenant, limits.per_tenant),
            ("model", "all", limits.per_model),
        ):
            yield scope, name, NO_LIMIT if most is None else most

    def _refusal(self, scope: str) -> Refused:
        return Refused(
            429,
            "budget",
            f"The query budget of this {scope} does not allow that many more queries, for good.",
        )
