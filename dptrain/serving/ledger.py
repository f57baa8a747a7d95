"""Budgets of queries for life, counted in the database: by key, by tenant, and of the model as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text
from torch import Tensor

from dptrain.contracts.ranges import Count
from dptrain.serving.guard import Query, Refused, Started, Surroundings
from dptrain.serving.keys import Caller
from dptrain.serving.store import Store

NO_LIMIT = 2**62
LEFT = "left"  # of a query: what each of its accounts held when it came

_OPEN = text(
    "insert into spent (scope, name, model, queries) values (:scope, :name, :model, 0) on conflict do nothing"
)
_SPEND = text(
    "update spent set queries = queries + :asked where scope = :scope and name = :name and model = :model "
    "and queries + :asked <= :most"
)
_READ = text(
    "select scope, queries from spent where model = :model and ((scope = 'key' and name = :key) "
    "or (scope = 'tenant' and name = :tenant) or (scope = 'model' and name = 'all'))"
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
        limited = {scope: most for scope, _, most in self._accounts(query.caller) if most < NO_LIMIT}
        if not limited:
            return
        spent = self._spent(query.caller)
        left = {scope: most - spent.get(scope, 0) for scope, most in limited.items()}
        query.facts[LEFT] = left
        self._refuse_beyond(left, 1)

    def before(self, query: Query) -> None:
        """Refuse early what is sure to be refused, as nothing is ever given back: the model is not asked."""
        self._refuse_beyond(query.facts.get(LEFT, {}), query.count)

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:
        """Count the query on every account, or on none where one would be overdrawn."""
        for scope, name, most in self._accounts(query.caller):
            account = {"scope": scope, "name": name, "model": self._model}
            spend = {**account, "asked": query.count, "most": most}
            if connection.execute(_SPEND, spend).rowcount:
                continue
            connection.execute(_OPEN, account)  # which is there already, but for the first time
            if not connection.execute(_SPEND, spend).rowcount:
                raise self._refusal(scope)
        return answers

    def state(self, caller: Caller) -> dict[str, dict[str, int | None]]:
        """What a caller has spent and has left, by account; of the whole model what is left."""
        every, found = self._spent(caller), {}
        for scope, _, most in self._accounts(caller):
            spent = every.get(scope, 0)
            left = None if most == NO_LIMIT else max(0, most - spent)
            found[scope] = {"left": left} if scope == "model" else {"spent": spent, "left": left}
        return found

    def _spent(self, caller: Caller) -> dict[str, int]:
        """What was asked so far, by account; without those that nobody has asked from."""
        named = {"model": self._model, "key": caller.key, "tenant": caller.tenant}
        with self._store.reading() as connection:
            return {row.scope: row.queries for row in connection.execute(_READ, named)}

    def _accounts(self, caller: Caller) -> Iterator[tuple[str, str, int]]:
        limits = self._limits
        for scope, name, most in (
            ("key", caller.key, limits.per_key),
            ("tenant", caller.tenant, limits.per_tenant),
            ("model", "all", limits.per_model),
        ):
            yield scope, name, NO_LIMIT if most is None else most

    def _refuse_beyond(self, left: Mapping[str, int], asked: int) -> None:
        for scope, free in left.items():
            if asked > free:
                raise self._refusal(scope)

    def _refusal(self, scope: str) -> Refused:
        return Refused(
            429,
            "budget",
            f"The query budget of this {scope} does not allow that many more queries, for good.",
        )
