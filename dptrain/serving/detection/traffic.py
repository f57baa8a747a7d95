"""Sessions of normal traffic, made of normal inputs: what detectors are calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dptrain.contracts.ranges import NotNegative, Positive
from dptrain.serving.detection.features import Facts

RECENT = 20  # queries that a resubmission may repeat


@dataclass(frozen=True, kw_only=True)
class NormalTraffic:
    """How people ask: each about inputs of classes that she has more or less of, once, some of them again.

    A session's mix of classes is drawn from a Dirichlet distribution of this parameter (small: people who
    ask about one class only), its share of resubmissions uniformly up to twice the mean.
    """

    mix: Positive = 1.0
    resubmitted: NotNegative = 0.05  # mean share of queries that repeat one of the last 20

    def sessions(
        self, facts: Facts, length: int, count: int, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Rows of `facts`, (length,) for each of `count` sessions."""
        return self.rows(facts.answer, length, count, rng)

    def rows(
        self, classes_of: np.ndarray, length: int, count: int, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """The same of inputs of these classes (N,)."""
        classes = np.unique(classes_of)
        members = [np.flatnonzero(classes_of == each) for each in classes]
        sizes = np.array([len(each) for each in members], float)
        for _ in range(count):
            weights = sizes * rng.dirichlet(np.full(len(classes), self.mix))
            chosen = rng.choice(len(classes), length, p=weights / weights.sum())
            rows = np.empty(length, np.int64)
            for each, rows_of in enumerate(members):
                places = np.flatnonzero(chosen == each)
                rows[places] = np.resize(rng.permutation(rows_of), len(places))  # repeated where too few
            again = rng.random(length) < rng.uniform(0, 2 * min(self.resubmitted, 0.5))
            for place in (np.flatnonzero(again[1:]) + 1).tolist():
                rows[place] = rows[rng.integers(max(0, place - RECENT), place)]
            yield rows
