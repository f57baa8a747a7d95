"""Thresholds of detectors from sessions of normal traffic, at declared rates of false alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dptrain.contracts import ConfigError
from dptrain.serving.detection.features import Facts
from dptrain.serving.detection.history import Detector, History
from dptrain.serving.detection.traffic import NormalTraffic

TAIL = 0.99  # quantile that a deviation is measured in
SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is normal: how far each detector's mean deviates at each check, and what is beyond all that.

    A session's score is its largest deviation, over detectors and the checks until now, in units of how far
    normal sessions deviate. Its null distribution are the scores of other normal sessions than those that the
    units come from, so that at most the declared share of normal sessions is beyond the threshold (split
    conformal prediction; Vovk, Gammerman and Shafer 2005), as far as traffic is like the sessions.
    """

    checks: tuple[int, ...]
    ranges: Mapping[int, Mapping[str, tuple[float, float, float]]]  # at each check: low, middle, high
    null: np.ndarray  # sorted scores of normal sessions
    session_threshold: float
    query_thresholds: Mapping[str, float]

    def score(self, means: Mapping[str, float], at: int) -> tuple[float, str]:
        """The largest deviation at a check, and whose it is."""
        found = {}
        for name, (low, middle, high) in self.ranges[at].items():
            away = means[name] - middle
            found[name] = away / (high - middle) if away > 0 else away / (low - middle)
        name = max(found, key=lambda each: found[each])
        return found[name], name

    def p_value(self, score: float) -> float:
        """The probability that a normal session scores at least so high."""
        beyond = len(self.null) - int(np.searchsorted(self.null, score, side="left"))
        return (1 + beyond) / (len(self.null) + 1)


def calibrate(
    facts: Facts,
    detectors: Mapping[str, Detector],
    traffic: NormalTraffic,
    *,
    checks: Sequence[int],
    sessions: int,
    session_false_alarms: float,
    query_false_alarms: Mapping[str, float],
    rng: np.random.Generator,
) -> Calibration:
    """Calibrate detectors on sessions of normal inputs: `sessions` for units, as many for scores.

    Raises ConfigError where there are too few to tell such a rate of false alarms.
    """
    if (sessions + 1) * session_false_alarms < 1:
        needed = math.ceil(1 / session_false_alarms) - 1
        raise ConfigError(
            f"serving.detection.sessions={sessions} cannot tell a false-alarm rate of "
            f"{session_false_alarms:g}; give at least {needed}"
        )
    means: list[list[dict[str, float]]] = []  # by session and check
    single: dict[str, list[float]] = {name: [] for name in query_false_alarms}
    for rows in traffic.sessions(facts, max(checks), 2 * sessions, rng):
        history, found = History(max(checks)), []
        for row in rows:
            scores = history.add(facts.take(np.array([row])), detectors)
            for name, scored in single.items():
                scored.append(scores[name])
            if history.count in checks:
                found.append(history.means())
        means.append(found)
    ranges = {
        at: {name: _range([each[place][name] for each in means[:sessions]]) for name in detectors}
        for place, at in enumerate(checks)
    }
    made = Calibration(
        checks=tuple(checks), ranges=ranges, null=np.zeros(0), session_threshold=math.inf, query_thresholds={}
    )
    null = np.sort(
        [max(made.score(each[place], at)[0] for place, at in enumerate(checks)) for each in means[sessions:]]
    )
    return Calibration(
        checks=made.checks,
        ranges=ranges,
        null=null,
        session_threshold=_threshold(null, session_false_alarms),
        query_thresholds={
            name: _threshold(np.sort(single[name]), rate) for name, rate in query_false_alarms.items()
        },
    )


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [1 - TAIL, 0.5, TAIL])
    return float(min(low, middle - SMALLEST)), float(middle), float(max(high, middle + SMALLEST))


def _threshold(null: np.ndarray, rate: float) -> float:
    """What at most this share of normal scores exceeds, theirs and one more (null sorted)."""
    place = math.ceil((len(null) + 1) * (1 - rate))
    return float(null[min(place, len(null)) - 1]) if place <= len(null) else math.inf
