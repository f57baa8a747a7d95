"""The last queries of a key or tenant, and what each of them was like beside those before it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from dptrain.serving.detection.features import SKETCH, Facts

SAME = 1e-4  # distance of sketches below which inputs are one and the same, which tells nothing new

LOW, HIGH = ": odd, low", ": odd, high"  # after a detector's name: the share of queries in that tail


class Detector(Protocol):
    """A number that says how odd a query is after those before it."""

    def __call__(self, history: History, query: Facts) -> float:
        """The number for `query`, a single one."""


class History:
    """A session: up to `most` consecutive queries, each scored as it came."""

    def __init__(self, most: int, tails: Mapping[str, tuple[float, float]] | None = None) -> None:
        """`tails`: by detector, below and above which a single query is counted as odd."""
        self._tails = tails or {}
        self.at = 0.0  # when the last one came, in seconds since the epoch
        self.count = 0
        self.sketches = np.zeros((most, SKETCH), np.float32)
        self.answers: Counter[int] = Counter()
        self.marked: dict[int, list[int]] = defaultdict(list)  # earlier queries by fingerprint
        self.sums: dict[str, float] = defaultdict(float)
        self.alarmed: set[str] = set()  # whose session it was when it was found odd: a key's, a tenant's
        self.score, self.reason = 0.0, ""  # the largest deviation at any check, and whose it was
        self._measured: tuple[Facts, np.ndarray] | None = None  # the last query that was, for all detectors

    def add(self, query: Facts, detectors: Mapping[str, Detector]) -> dict[str, float]:
        """Score a query and remember it; what each detector says of it."""
        scores = {name: detector(self, query) for name, detector in detectors.items()}
        for name, score in scores.items():
            self.sums[name] += score
        for name, (low, high) in self._tails.items():
            self.sums[f"{name}{LOW}"] += scores[name] < low
            self.sums[f"{name}{HIGH}"] += scores[name] > high
        self.sketches[self.count] = query.sketch[0]
        self.answers[int(query.answer[0])] += 1
        for mark in query.marks[0].tolist():
            if mark:
                self.marked[mark].append(self.count)
        self.count += 1
        return scores

    def means(self) -> dict[str, float]:
        """What each detector says on average over the session, and of which share of it each is odd."""
        return {name: total / self.count for name, total in self.sums.items()}

    def distances(self, query: Facts) -> np.ndarray:
        """From a query to every earlier one, by their sketches."""
        if self._measured is None or self._measured[0] is not query:
            away = self.sketches[: self.count] - query.sketch[0]
            self._measured = query, np.sqrt(np.einsum("ns,ns->n", away, away))
        return self._measured[1]
