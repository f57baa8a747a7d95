"""The guard that notices probing: odd queries one by one, and odd sessions of a key or a tenant."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import requests
import torch
from sqlalchemy import Connection, select
from torch import Tensor

from dptrain.contracts import ConfigError
from dptrain.contracts.ranges import Count, NotNegative, Positive, Rate
from dptrain.serving.detection.calibration import Calibration, calibrate
from dptrain.serving.detection.features import Features, Manifold
from dptrain.serving.detection.history import Detector, History
from dptrain.serving.detection.sessions import Scope, Sessions, scopes_of
from dptrain.serving.detection.traffic import NormalTraffic
from dptrain.serving.forms import bounds_of
from dptrain.serving.guard import Query, Refused, Started, Surroundings
from dptrain.serving.recording import FACTS
from dptrain.serving.store import Store
from dptrain.serving.tables import ALARMS, KEYS

log = logging.getLogger(__name__)

ACTIONS = ("slow", "coarsen", "refuse", "lock")
WITHHOLDING = {"coarsen", "refuse", "lock"}  # actions that leave no answer as it is
ONE_BY_ONE = ("coarsen", "log")
FRESH_SECONDS = 1.0  # that what another process noticed may be unknown here
LEAST = 50  # inputs to calibrate on
# Of a query: sessions that begin with it, sessions found odd because of it, and the first row that was.
BEGUN, FLAGGED, FIRST = "sessions begun", "sessions flagged", "first flagged"


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Notices probing by detectors that are calibrated on normal traffic, at declared rates of false alarms.

    A session is up to `length` consecutive queries of a key, and likewise of a tenant, without a pause of
    `gap_seconds`; it is looked at after each of `checks` queries. One that deviates is an alarm, on which
    `actions` are taken for `hold_seconds` or until it is acknowledged: slow, coarsen (answer with the
    prior), refuse, lock (the key, until it is unlocked). Single odd queries are answered with the prior, or
    logged, by `query_action`; each of `query_detectors` has an equal part of `query_false_alarms`. None of
    this is proved to hold anybody off: an attacker who knows the detectors stays within what is normal.

    Normal traffic is made of the inputs that `serve.calibration` names; half of them tell where normal
    inputs lie, the others how odd they look there: the fewer there are, the odder a session must be. Sessions
    are in memory; what was recorded of them outlives a restart, and is how several workers know of each
    other's queries.
    """

    detectors: Mapping[str, Detector]
    length: Count = 200
    checks: Sequence[int] = (10, 25, 50, 100, 200)
    sessions: Count = 200  # of normal traffic, twice so many
    session_false_alarms: Rate = 0.01
    query_false_alarms: Rate = 0.015
    query_detectors: Sequence[str] = ("off_manifold", "near_duplicates")
    query_action: str = "coarsen"
    actions: Sequence[str] = ("slow",)
    slow_seconds: NotNegative = 1.0
    hold_seconds: Positive = 86400.0
    gap_seconds: Positive = 86400.0  # shorter ones let probing through that rests before each check
    webhook: str | None = None  # is sent alarms, as JSON without anything of the inputs
    traffic: NormalTraffic = field(default_factory=NormalTraffic)

    def __post_init__(self) -> None:
        if not self.detectors:
            raise ConfigError("detectors={} notice nothing; give some, or leave the guard out")
        if unknown := sorted(set(self.actions) - set(ACTIONS)):
            raise ConfigError(f"actions={unknown} are unknown; choose among {', '.join(ACTIONS)}")
        if self.query_action not in ONE_BY_ONE:
            raise ConfigError(f"query_action={self.query_action} is unknown; give {' or '.join(ONE_BY_ONE)}")
        if missing := sorted(set(self.query_detectors) - set(self.detectors)):
            raise ConfigError(
                f"query_detectors={missing} are no detectors of this guard; add them, or leave out"
            )
        if not self.checks or sorted(set(self.checks)) != list(self.checks) or self.checks[-1] > self.length:
            raise ConfigError(f"checks={list(self.checks)} must rise, up to length={self.length} at most")
        if self.checks[0] < 1:
            raise ConfigError(f"checks={list(self.checks)} must begin with 1 query or more")
        if not 0 < self.session_false_alarms < 1:
            raise ConfigError(
                f"session_false_alarms={self.session_false_alarms:g} must lie between 0 and 1, and be neither"
            )
        if not 0 <= self.query_false_alarms < 1:
            raise ConfigError(
                f"query_false_alarms={self.query_false_alarms:g} must be 0 or more, and below 1"
            )

    def start(self, surroundings: Surroundings) -> Watch:
        """Calibrate the detectors; raises ConfigError where there are no normal inputs to do it by."""
        if surroundings.workers > 1 and not surroundings.recorded:
            raise ConfigError(
                f"serving.detection with serve.workers={surroundings.workers}: a worker knows what others "
                "were asked by what is recorded; have `record` after it: "
                "serving=[rates,detection,record,budget]"
            )
        inputs = surroundings.calibration()
        if len(inputs) < 2 * LEAST:
            raise ConfigError(
                f"serve.calibration: {len(inputs)} inputs are too few to know normal ones; give "
                f"{2 * LEAST} or more"
            )
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        fitted, left = inputs[order[::2]], inputs[order[1::2]]
        low, high = bounds_of(surroundings.forms)
        features = Features(low, high, surroundings.secret, Manifold.fit(fitted))
        answers = surroundings.answer(left)
        rate = self.query_false_alarms / max(1, len(self.query_detectors))
        calibrated = calibrate(
            features(left, answers),
            self.detectors,
            self.traffic,
            checks=self.checks,
            sessions=self.sessions,
            session_false_alarms=self.session_false_alarms,
            query_false_alarms=dict.fromkeys(self.query_detectors, rate),
            rng=np.random.default_rng(0),
        )
        shared = surroundings.shared and surroundings.recorded
        return Watch(self, calibrated, features, surroundings.store, surroundings.model, shared=shared)


class Watch(Started):
    """Detection at work."""

    def __init__(
        self,
        detection: Detection,
        calibration: Calibration,
        features: Features,
        store: Store,
        model: str,
        *,
        shared: bool = False,
    ) -> None:
        """`shared`: other processes record to the same store, and raise alarms there."""
        self.calibration, self.features = calibration, features
        self._asked, self._store, self._model, self._shared = detection, store, model, shared
        self.sessions = Sessions(
            store,
            model,
            detection.detectors,
            calibration,
            length=detection.length,
            gap_seconds=detection.gap_seconds,
            shared=shared,
        )
        self._flagged: set[Scope] = set()
        self._raised: list[dict[str, Any]] = []  # alarms that may have been undone with what raised them
        self._read_at = -float("inf")

    def before(self, query: Query) -> None:
        """Take the actions on those who raised an alarm; raises Refused (403) where that is one."""
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            with self._store.reading() as connection:
                self._read_flags(query.at, connection)
        if not self._flagged & set(_scopes(query)):
            return
        query.signs["session"] = "an alarm is open"
        if "refuse" in self._asked.actions:
            raise Refused(403, "suspicious", "This key is held back; ask whoever runs this service.")
        if "slow" in self._asked.actions:
            query.delay_seconds += self._asked.slow_seconds
        if "coarsen" in self._asked.actions:
            query.coarsen(torch.ones(query.count, dtype=torch.bool))

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:
        """Score each query and each session; what is odd is coarsened, or raises an alarm."""
        facts = self.features(query.flat(), answers)
        query.facts[FACTS] = facts
        odd = set[int]()  # rows
        scopes = _scopes(query)
        self.sessions.catch_up(query, connection)
        self._raise_undone(connection)
        if self._shared:
            self._read_flags(query.at, connection)
        if self._withheld(query):  # since an alarm of another process, which `before` did not know of
            query.coarsen(torch.ones(query.count, dtype=torch.bool))
        for row in range(query.count):
            one = facts if query.count == 1 else facts.take(np.array([row]))
            scores = self.sessions.add(query, one)
            for name, most in self.calibration.query_thresholds.items():
                if scores[name] > most:
                    odd.add(row)
                    query.signs[name] = "odd query"
            for scope in scopes:
                session = self.sessions.of(query.caller.tenant, scope)
                if session.count == 1:
                    query.facts[BEGUN] = query.facts.get(BEGUN, 0) + 1
                self._check(session, scope, query, row, connection)
            # The rest of a batch is not answered because its first records came before the alarm.
            if self._withheld(query):
                held = torch.zeros(query.count, dtype=torch.bool)
                held[row:] = True
                query.coarsen(held)
        if odd and self._asked.query_action == "coarsen":
            query.coarsen(torch.tensor([row in odd for row in range(query.count)]))
        return answers

    def refused(self, query: Query, why: Refused, connection: Connection) -> None:  # noqa: ARG002
        """Keep the alarms of a query that a guard after this one has refused, and so undone."""
        self._raise_undone(connection)

    def kept(self, query: Query) -> None:  # noqa: ARG002
        """All alarms until now are kept."""
        self._raised.clear()

    def tidy(self, now: float) -> None:
        """Forget sessions that are over."""
        self.sessions.purge(now)

    def _withheld(self, query: Query) -> bool:
        """Whether an alarm is open on which answers are not given as they are."""
        return bool(self._flagged & set(_scopes(query)) and WITHHOLDING & set(self._asked.actions))

    def _check(self, session: History, scope: Scope, query: Query, row: int, connection: Connection) -> None:
        """Raise an alarm, once, where a session deviates more than normal ones do."""
        if session.count not in self.calibration.checks or scope[0] in session.alarmed:
            return
        score, name = session.score, session.reason
        if score <= self.calibration.session_threshold:
            return
        session.alarmed.add(scope[0])
        query.facts[FLAGGED] = query.facts.get(FLAGGED, 0) + 1
        query.facts.setdefault(FIRST, row)
        if scope in self._flagged:  # an alarm is open, and acted on already
            return
        alarm = {
            "at": query.at,
            "scope": scope[0],
            "name": scope[1],
            "model": self._model,
            "queries": session.count,
            "score": self.calibration.p_value(score),
            "reason": f"{name} deviates {score:.1f} times as far as in all but 1 % of normal sessions",
        }
        self._raise(alarm, connection)
        self._raised.append(alarm)
        self._flagged.add(scope)
        query.signs["session"] = name
        log.warning("alarm: %s %s after %d queries: %s", *scope, session.count, alarm["reason"])
        if self._asked.webhook is not None:
            threading.Thread(target=_send, args=(self._asked.webhook, alarm), daemon=True).start()

    def _raise_undone(self, connection: Connection) -> None:
        """Raise alarms again that a refusal, or a fault of the database, has undone."""
        for alarm in self._raised:
            same = [ALARMS.c[name] == alarm[name] for name in ("at", "scope", "name", "model")]
            if connection.execute(select(ALARMS.c.id).where(*same)).first() is None:
                self._raise(alarm, connection)
                self._flagged.add((alarm["scope"], alarm["name"]))

    def _raise(self, alarm: Mapping[str, Any], connection: Connection) -> None:
        connection.execute(ALARMS.insert().values(**alarm))
        if "lock" in self._asked.actions:
            column = KEYS.c.id if alarm["scope"] == "key" else KEYS.c.tenant
            connection.execute(
                KEYS.update().where(column == alarm["name"]).values(locked="probing was noticed")
            )

    def _read_flags(self, now: float, connection: Connection) -> None:
        """Who has raised an alarm that is neither acknowledged nor old, whichever worker noticed."""
        self._read_at = time.monotonic()
        held = select(ALARMS.c.scope, ALARMS.c.name).where(
            ALARMS.c.acknowledged.is_(None),
            ALARMS.c.at > now - self._asked.hold_seconds,
            ALARMS.c.model == self._model,
        )
        self._flagged = {(row.scope, row.name) for row in connection.execute(held)}


def _scopes(query: Query) -> tuple[Scope, Scope]:
    return scopes_of(query.caller.key, query.caller.tenant)


def _send(webhook: str, alarm: dict[str, Any]) -> None:
    """Tell a webhook of an alarm; a failure is logged without its address, which may hold a secret."""
    try:
        requests.post(webhook, json=alarm, timeout=10).raise_for_status()
    except requests.RequestException as error:
        log.warning("the webhook was not told of an alarm (%s)", type(error).__name__)
