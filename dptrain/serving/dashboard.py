"""What those who run a service see of it: alarms, sessions by suspicion, keys and what they have spent."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import func, select

from dptrain.report.dashboard import Dashboard, Listing, Row
from dptrain.serving.detection.guard import Watch
from dptrain.serving.keys import Stored
from dptrain.serving.service import Service
from dptrain.serving.tables import ALARMS, QUERIES, SPENT

ALARMS_SHOWN, SESSIONS_SHOWN = 50, 20


def dashboard(service: Service, token: str) -> Dashboard:
    """The numbers of the page, as they are now."""
    model = service.model
    return Dashboard(
        title=model.title,
        tables=(_alarms(service), _sessions(service), _keys(service), _outcomes(service)),
        promise=str(model.statement.get("sentence") or model.statement.get("promise") or "No statement."),
        digest=model.digest[:12],
        output=model.output,
        guards=", ".join(service.guards) or "none",
        written=_time(service.clock()),
        token=token,
    )


def acknowledge(service: Service, alarm: int) -> None:
    """Note that somebody has seen an alarm, if there is one: no action is taken on it any more."""
    with service.store.writing() as connection:
        connection.execute(
            ALARMS.update()
            .where(ALARMS.c.id == alarm, ALARMS.c.acknowledged.is_(None))
            .values(acknowledged=service.clock())
        )


def token_of(secret: bytes, key: str) -> str:
    """What a form holds that came from the page of this key's owner: no other site knows it."""
    return hmac.new(secret, f"dashboard {key}".encode(), hashlib.sha256).hexdigest()


def _alarms(service: Service) -> Listing:
    found = service.store.rows(
        select(ALARMS)
        .where(ALARMS.c.model == service.model.digest)
        .order_by(ALARMS.c.acknowledged.is_not(None), ALARMS.c.id.desc())
        .limit(ALARMS_SHOWN)
    )
    return Listing(
        name="alarms",
        title="Alarms",
        caption="Sessions unlike normal ones, open ones first. p: the share of normal ones as odd.",
        columns=("When", "Who", "Queries", "p", "Why", "State"),
        rows=[
            Row(
                cells=(
                    _time(each.at),
                    f"{each.scope} {each.name}",
                    f"{each.queries:,}",
                    f"{each.score:.4f}",
                    each.reason,
                    "open" if each.acknowledged is None else f"acknowledged {_time(each.acknowledged)}",
                ),
                id=each.id if each.acknowledged is None else None,
            )
            for each in found
        ],
        empty="No alarm was raised.",
        numbers=frozenset({"Queries", "p"}),
        action="admin/acknowledge",
    )


def _sessions(service: Service) -> Listing:
    rows = [
        Row(
            cells=(
                f"{scope} {name}",
                f"{each.count:,}",
                f"{each.score:.2f}",
                f"{watch.calibration.session_threshold:.2f}",
                each.reason or "not looked at yet",
            )
        )
        for watch in _watches(service)
        for (scope, name), each in sorted(watch.sessions.every.items(), key=lambda item: -item[1].score)
    ]
    return Listing(
        name="sessions",
        title="Sessions by suspicion",
        caption="Those under way, as far as this worker knows. A score above the threshold is an alarm.",
        columns=("Who", "Queries", "Score", "Threshold", "Largest deviation"),
        rows=rows[:SESSIONS_SHOWN],
        empty="No guard looks at sessions, or nobody has asked yet.",
        numbers=frozenset({"Queries", "Score", "Threshold"}),
    )


def _keys(service: Service) -> Listing:
    spent = {
        (each.scope, each.name): each.queries
        for each in service.store.rows(select(SPENT).where(SPENT.c.model == service.model.digest))
    }
    return Listing(
        name="keys",
        title="Keys and budgets",
        caption="Queries of this model, for life; keys themselves are kept nowhere.",
        columns=("Key", "Tenant", "Scopes", "State", "Queries", "Of the tenant"),
        rows=[
            Row(
                cells=(
                    each.id,
                    each.tenant,
                    each.scopes,
                    _state(each, service.clock()),
                    f"{spent.get(('key', each.id), 0):,}",
                    f"{spent.get(('tenant', each.tenant), 0):,}",
                )
            )
            for each in ([] if service.keys is None else service.keys.all())
        ],
        empty="There are no keys.",
        numbers=frozenset({"Queries", "Of the tenant"}),
    )


def _outcomes(service: Service) -> Listing:
    found = service.store.rows(
        select(QUERIES.c.outcome, func.count().label("many"))
        .where(QUERIES.c.model == service.model.digest)
        .group_by(QUERIES.c.outcome)
        .order_by(func.count().desc())
    )
    return Listing(
        name="outcomes",
        title="What became of queries",
        caption="Records answered, and requests refused, as far as they are still kept.",
        columns=("Outcome", "Number"),
        rows=[Row(cells=(each.outcome, f"{each.many:,}")) for each in found],
        empty="Nothing is recorded.",
        numbers=frozenset({"Number"}),
    )


def _watches(service: Service) -> Iterator[Watch]:
    return (guard for guard in service.guards.values() if isinstance(guard, Watch))


def _state(key: Stored, now: float) -> str:
    if key.revoked is not None:
        return "revoked"
    if key.locked is not None:
        return f"locked: {key.locked}"
    return "valid" if key.valid(now) else "expired"


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
