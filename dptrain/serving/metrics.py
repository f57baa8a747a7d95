"""Counters for Prometheus, by what became of a request; no key and no tenant is a label."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from dptrain.serving.guard import Query

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """What a service counts since it was started, in a registry of its own."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where several processes count together, each in a file that outlives it.

        Then all that this process counts from now on is counted there.
        """
        self._folder = folder
        if folder is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # as the variable has it where it is set early
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dptrain_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "dptrain_request_seconds", "Seconds from a request to its answer.", ["route"], buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._refused = Counter(
            "dptrain_refused", "Requests for predictions refused, by reason.", ["reason"],
            registry=self._registry,
        )  # fmt: skip
        self._queries = Counter("dptrain_queries", "Records answered.", registry=self._registry)
        self._coarse = Counter(
            "dptrain_queries_coarse", "Records answered with the prior.", registry=self._registry
        )
        self._slowed = Counter("dptrain_slowed", "Requests that were delayed.", registry=self._registry)
        self._signs = Counter(
            "dptrain_suspicious", "Queries in which a guard saw a sign of probing.", ["sign"],
            registry=self._registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered, in whatever way."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def answered(self, query: Query) -> None:
        """Count the records of a query that was answered."""
        self._queries.inc(query.count)
        if query.coarse is not None:
            self._coarse.inc(int(query.coarse.sum()))
        if query.delay_seconds:
            self._slowed.inc()
        for sign in query.signs:
            self._signs.labels(sign).inc()

    def text(self) -> bytes:
        """All counters, as Prometheus reads them."""
        if self._folder is None:
            return generate_latest(self._registry)
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, path=str(self._folder))
        return generate_latest(of_all)
