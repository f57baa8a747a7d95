"""What gives probing away: each detector is a number for a query, whose normal range is calibrated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dptrain.contracts.ranges import Count
from dptrain.serving.detection.features import MARKS, Facts
from dptrain.serving.detection.history import SAME, History


@dataclass(frozen=True, kw_only=True)
class OffManifold:
    """Log of the distance from where normal inputs lie."""

    def __call__(self, history: History, query: Facts) -> float:  # noqa: ARG002
        return float(np.log(max(float(query.distance[0]), 1e-9)))


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """The largest share of fingerprints that a query has in common with an earlier one, not the very same.

    The same input again is answered the same, and tells whoever asks nothing.
    """

    def __call__(self, history: History, query: Facts) -> float:
        shared: Counter[int] = Counter()
        for mark in query.marks[0].tolist():
            if mark and mark in history.marked:
                shared.update(history.marked[mark])
        away = history.distances(query)
        return next((many / MARKS for earlier, many in shared.most_common() if away[earlier] >= SAME), 0.0)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Log of the mean distance to the nearest earlier queries, not the very same.

    Juuti et al. 2019, "PRADA: Protecting against DNN model stealing attacks", look at distances among queries
    likewise; attacks ask about what is nearer together than what people ask about, or farther apart.
    """

    nearest: Count = 3

    def __call__(self, history: History, query: Facts) -> float:
        away = history.distances(query)
        away = np.sort(away[away >= SAME])[: self.nearest]
        return float(np.log(away.mean())) if len(away) else 0.0


@dataclass(frozen=True, kw_only=True)
class ClassConcentration:
    """The share of earlier queries that were answered with the same class."""

    def __call__(self, history: History, query: Facts) -> float:
        return history.answers[int(query.answer[0])] / max(1, history.count)
