"""Records what was asked: personal data, kept for so many days, as sketches unless inputs are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import Connection, delete
from torch import Tensor

from dptrain.contracts.ranges import Positive
from dptrain.serving.detection.features import Facts, Features
from dptrain.serving.forms import bounds_of
from dptrain.serving.guard import Query, Refused, Started, Surroundings
from dptrain.serving.keys import DAY
from dptrain.serving.prepared import Prepared
from dptrain.serving.store import Store
from dptrain.serving.tables import QUERIES

_INSERT = Prepared(QUERIES.insert().inline(), [each.name for each in QUERIES.columns if each.name != "id"])

FACTS = "facts"  # of a query, where a guard before this one has made them


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A row a record in the database: time, key, tenant, class, sketch, fingerprints; inputs only if `raw`.

    Who asked what is personal data, and sketches of inputs are too: they are purged after `days`. Declare
    it after guards that detect, so that what they found is recorded.
    """

    days: Positive = 30.0
    raw: bool = False

    def start(self, surroundings: Surroundings) -> Recorder:
        low, high = bounds_of(surroundings.forms)
        features = Features(low, high, surroundings.secret, manifold=None)
        return Recorder(self, surroundings.store, surroundings.model, features)


class Recorder(Started):
    """Writes the rows."""

    def __init__(self, recording: Recording, store: Store, model: str, features: Features) -> None:
        self._days, self._raw = recording.days, recording.raw
        self._store, self._model, self._features = store, model, features
        self._refused: dict[str, float] = {}  # by key, when a refusal was recorded last

    def after(self, query: Query, answers: Tensor, connection: Connection) -> Tensor:
        facts: Facts = query.facts.get(FACTS) or self._features(query.flat(), answers)
        coarse = [False] * query.count if query.coarse is None else query.coarse.tolist()
        shared, named = self._of(query), answers.dim() == 2
        raw = query.flat().numpy() if self._raw else None
        _INSERT.many(
            connection,
            [
                {
                    **shared,
                    "outcome": "coarse" if coarse[row] else "answered",
                    "answer": int(facts.answer[row]) if named else None,
                    "sketch": facts.sketch[row].tobytes(),
                    "marks": facts.marks[row].tobytes(),
                    "distance": None if math.isnan(facts.distance[row]) else float(facts.distance[row]),
                    "raw": None if raw is None else raw[row].tobytes(),
                }
                for row in range(query.count)
            ],
        )
        return answers

    def refused(self, query: Query, why: Refused, connection: Connection) -> None:
        """One row a second, at most, for a key whose requests are refused, without anything of its inputs."""
        if query.at - self._refused.get(query.caller.key, -math.inf) < 1.0:
            return
        self._refused[query.caller.key] = query.at
        connection.execute(QUERIES.insert().values(**self._of(query), outcome=f"refused: {why.reason}"[:20]))

    def tidy(self, now: float) -> None:
        """Purge what is older than it may be."""
        with self._store.writing() as connection:
            connection.execute(delete(QUERIES).where(QUERIES.c.at < now - self._days * DAY))

    def _of(self, query: Query) -> dict[str, object]:
        caller = query.caller
        return {"at": query.at, "key": caller.key, "tenant": caller.tenant, "model": self._model}
