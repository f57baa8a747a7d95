"""Budgets of queries for life, counted in the database: by key, by tenant, and of the model as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text
from torch import Tensor

from dptrain.contracts.ranges import Count
from dptrain.serving.guard import Query, Refused, Started, Surroundings
from dptrain.serving.keys import Caller
from dptrain.serving.prepared import Prepared
from dptrain.serving.store import Store

NO_LIMIT = 2**62
LEFT, SPENT = "left", "spent"  # of a query: what its accounts held at least when it came, and with it

_READ = text(
    "select scope, queries from spent where model = :model and ((scope = 'key' and name = :key) "
    "or (scope = 'tenant' and name = :tenant) or (scope = 'model' and name = 'all'))"
)
_SPEND = Prepared(
    text(  # in this order everywhere, so that of two transactions neither waits for the other
        "insert into spent (scope, name, model, queries) values ('key', :key, :model, :asked), "
        "('tenant', :tenant, :model, :asked), ('model', 'all', :model, :asked) "
        "on conflict (scope, name, model) do update set queries = spent.queries + excluded.queries "
        "returning scope, queries"
    )
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
        self._known: dict[tuple[str, str], int] = {}  # what accounts held once: since then they may hold more

    def arrived(self, query: Query) -> None:
        """Refuse who is known to have nothing left, before a body is read."""
        limited = [account for account in self._accounts(query.caller) if account[2] < NO_LIMIT]
        if any(account[:2] not in self._known for account in limited):
            self._spent(query.caller)
        left = {scope: most - self._known[scope, name] for scope, name, most in limited}
        query.facts[LEFT] = left
        self._refuse_beyond(left, 1)

    def before(self, query: Query) -> None:
        """Refuse early what is sure to be refused, as nothing is ever given back: the model is not asked."""
        self._refuse_beyond(query.facts.get(LEFT, {}), query.count)

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:
        """Count the query on every account; where one is overdrawn, the refusal undoes it."""
        asked = {**self._names(query.caller), "asked": query.count}
        spent: dict[str, int] = dict(_SPEND.rows(connection, asked))
        for scope, _, most in self._accounts(query.caller):
            if spent[scope] > most:
                self._spent(query.caller)  # by other processes too
                raise self._refusal(scope)
        query.facts[SPENT] = spent
        return answers

    def kept(self, query: Query) -> None:
        """Remember what the accounts hold."""
        for scope, name, _ in self._accounts(query.caller):
            self._known[scope, name] = query.facts[SPENT][scope]

    def state(self, caller: Caller) -> dict[str, dict[str, int | None]]:
        """What a caller has spent and has left, by account; of the whole model what is left."""
        every, found = self._spent(caller), {}
        for scope, _, most in self._accounts(caller):
            spent = every[scope]
            left = None if most == NO_LIMIT else max(0, most - spent)
            found[scope] = {"left": left} if scope == "model" else {"spent": spent, "left": left}
        return found

    def _spent(self, caller: Caller) -> dict[str, int]:
        """What was asked so far, by account."""
        with self._store.reading() as connection:
            found = {row.scope: row.queries for row in connection.execute(_READ, self._names(caller))}
        spent = {scope: found.get(scope, 0) for scope, _, _ in self._accounts(caller)}
        self._known |= {(scope, name): spent[scope] for scope, name, _ in self._accounts(caller)}
        return spent

    def _names(self, caller: Caller) -> dict[str, str]:
        return {"model": self._model, "key": caller.key, "tenant": caller.tenant}

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
