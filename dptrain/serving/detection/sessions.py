"""Sessions of keys and tenants as a process knows them: of its own queries, and what others recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection, select

from dptrain.serving.detection.calibration import Calibration
from dptrain.serving.detection.features import Facts
from dptrain.serving.detection.history import Detector, History
from dptrain.serving.guard import Query
from dptrain.serving.store import Store
from dptrain.serving.tables import QUERIES

Scope = tuple[str, str]  # key or tenant, and its name


def scopes_of(key: str, tenant: str) -> tuple[Scope, Scope]:
    """Whose sessions a query of this key belongs to."""
    return ("key", key), ("tenant", tenant)


@dataclass
class _Tenant:
    """What is known of the queries of a tenant."""

    sessions: dict[Scope, History] = field(default_factory=dict)
    only: str | None = None  # the key whose session is the tenant's too, as none other has asked in it
    read: int | None = None  # the last row that was read; None before any was
    mine: tuple[str, float] = ("", 0.0)  # key and time of the last query here: its rows have the same


class Sessions:
    """Up to `length` consecutive queries without a pause of `gap_seconds`: of a key, and of a tenant."""

    def __init__(
        self,
        store: Store,
        model: str,
        detectors: Mapping[str, Detector],
        calibration: Calibration,
        *,
        length: int,
        gap_seconds: float,
        shared: bool,
    ) -> None:
        """`shared`: others record queries to the same store, which belong to the same sessions."""
        self._store, self._model = store, model
        self._detectors, self._calibration = detectors, calibration
        self._length, self._gap, self._shared = length, gap_seconds, shared
        self._tenants: dict[str, _Tenant] = {}

    @property
    def every(self) -> dict[Scope, History]:
        """All sessions that are known, by scope."""
        return {scope: each for one in self._tenants.values() for scope, each in one.sessions.items()}

    def of(self, tenant: str, scope: Scope) -> History:
        """The session that a scope is in."""
        return self._tenants[tenant].sessions[scope]

    def catch_up(self, query: Query, connection: Connection) -> None:
        """Go on with what was recorded since the last query of this tenant here, or within a pause's length.

        Until the transaction ends, no other process answers this tenant: each query is looked at after all
        that were answered before it, whoever answered them.
        """
        name = query.caller.tenant
        if self._shared:
            self._store.in_turn(connection, name)
        tenant = self._tenants.setdefault(name, _Tenant())
        if self._shared or tenant.read is None:
            self._read(tenant, query, connection)
        tenant.mine = (query.caller.key, query.at)

    def _read(self, tenant: _Tenant, query: Query, connection: Connection) -> None:
        new = QUERIES.c.id > tenant.read if tenant.read else QUERIES.c.at > query.at - self._gap
        rows = connection.execute(
            select(QUERIES)
            .where(
                QUERIES.c.tenant == query.caller.tenant,
                new,
                QUERIES.c.model == self._model,
                QUERIES.c.distance.is_not(None),
            )
            .order_by(QUERIES.c.id)
        )
        tenant.read = tenant.read or 0
        for row in rows:
            tenant.read = row.id
            if (row.key, row.at) == tenant.mine:
                continue
            facts = Facts(
                sketch=np.frombuffer(row.sketch, np.float32)[None],
                marks=np.frombuffer(row.marks, np.uint64)[None],
                distance=np.array([row.distance], np.float32),
                answer=np.array([row.answer or 0]),
            )
            self._add(tenant, row.key, row.tenant, facts, row.at)

    def add(self, query: Query, one: Facts) -> dict[str, float]:
        """Put a query into the sessions of its key and its tenant; how odd it looks in the key's."""
        caller = query.caller
        return self._add(self._tenants[caller.tenant], caller.key, caller.tenant, one, query.at)

    def _add(self, tenant: _Tenant, key: str, name: str, one: Facts, at: float) -> dict[str, float]:
        scopes = scopes_of(key, name)
        mine, whole = (self._going(tenant.sessions.get(scope), at) for scope in scopes)
        if whole is None:
            whole = self._new()
            tenant.only = key if mine is None else None
            mine = whole if mine is None else mine
        elif tenant.only not in (None, key):
            whole, tenant.only = copy.deepcopy(whole), None
        mine = self._new() if mine is None else mine
        tenant.sessions |= zip(scopes, (mine, whole), strict=True)
        if whole is not mine:
            self._put(whole, one, at)
        return self._put(mine, one, at)

    def _going(self, session: History | None, at: float) -> History | None:
        """A session, where it is not over."""
        over = session is None or session.count >= self._length or at - session.at > self._gap
        return None if over else session

    def _new(self) -> History:
        return History(self._length, self._calibration.tails)

    def _put(self, session: History, one: Facts, at: float) -> dict[str, float]:
        session.at = at
        scores = session.add(one, self._detectors)
        if session.count in self._calibration.checks:
            score, name = self._calibration.score(session.means(), session.count)
            if score > session.score:
                session.score, session.reason = score, name
        return scores

    def purge(self, now: float) -> None:
        """Forget the sessions that are over, and tenants who have no other."""
        for name, tenant in list(self._tenants.items()):
            for scope, session in list(tenant.sessions.items()):
                if now - session.at > self._gap:
                    del tenant.sessions[scope]
            if not tenant.sessions:
                del self._tenants[name]
