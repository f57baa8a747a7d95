"""Thresholds of detectors from sessions of normal traffic, at declared rates of false alarms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dptrain.contracts import ConfigError
from dptrain.serving.detection.features import Facts
from dptrain.serving.detection.history import HIGH, LOW, Detector, History
from dptrain.serving.detection.traffic import NormalTraffic

TAIL = 0.99  # quantile that a deviation is measured in
SMALLEST = 1e-6
TAIL_SHARE = 0.02  # of single queries, below and above which they are odd


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is normal: how far each detector's mean deviates at each check, and what is beyond all that.

    A session's score is its largest deviation, over detectors and the checks until now, in units of how far
    normal sessions deviate: of a detector's mean, and of the shares of queries in its `tails`, which decoys
    in between do not hide. Its null distribution are the scores of other normal sessions than those that the
    units come from, so that at most the declared share of normal sessions is beyond the threshold (split
    conformal prediction; Vovk, Gammerman and Shafer 2005), as far as traffic is like the sessions.
    """

    checks: tuple[int, ...]
    ranges: Mapping[int, Mapping[str, tuple[float, float, float]]]  # at each check: low, middle, high
    null: np.ndarray  # sorted scores of normal sessions
    session_threshold: float
    query_thresholds: Mapping[str, float]
    tails: Mapping[str, tuple[float, float]]  # of single queries, by detector

    def score(self, means: Mapping[str, float], at: int) -> tuple[float, str]:
        """The largest deviation at a check, and whose it is."""
        found = {}
        for name, (low, middle, high) in self.ranges[at].items():
            away = means[name] - middle
            found[name] = away / (high - middle) if away > 0 else away / (low - middle)
        name = max(found, key=lambda each: found[each])
        return found[name], name

    def of_session(self, facts: Facts, detectors: Mapping[str, Detector]) -> float:
        """The score of a session of these queries, in their order."""
        history, highest = History(len(facts), self.tails), 0.0
        for row in range(len(facts)):
            history.add(facts.take(np.array([row])), detectors)
            if history.count in self.checks:
                highest = max(highest, self.score(history.means(), history.count)[0])
        return highest

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
    single = _scores(facts, detectors, traffic.sessions(facts, max(checks), 2 * sessions, rng))
    tails = {
        name: (low, high)
        for name, found in single.items()
        for low, high in [np.quantile(found[:sessions], [TAIL_SHARE, 1 - TAIL_SHARE]).tolist()]
    }
    means = [
        [_means({name: found[one, :at] for name, found in single.items()}, tails) for at in checks]
        for one in range(2 * sessions)
    ]  # by session and check
    ranges = {
        at: {
            name: _range(
                [each[place][name] for each in means[:sessions]], SMALLEST if name in detectors else 1 / at
            )
            for name in means[0][0]
        }
        for place, at in enumerate(checks)
    }
    made = Calibration(
        checks=tuple(checks),
        ranges=ranges,
        null=np.zeros(0),
        session_threshold=math.inf,
        query_thresholds={},
        tails=tails,
    )
    null = np.sort(
        [max(made.score(each[place], at)[0] for place, at in enumerate(checks)) for each in means[sessions:]]
    )
    return Calibration(
        checks=made.checks,
        ranges={at: _widened(found, at, len(facts)) for at, found in ranges.items()},
        null=null,
        session_threshold=_threshold(null, session_false_alarms),
        query_thresholds={
            name: _threshold(np.sort(single[name].ravel()), rate) for name, rate in query_false_alarms.items()
        },
        tails=tails,
    )


def _scores(
    facts: Facts, detectors: Mapping[str, Detector], sessions: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """What each detector says of every query of these sessions: (sessions, length)."""
    found = []
    for rows in sessions:
        history = History(len(rows))
        found.append([list(history.add(facts.take(np.array([row])), detectors).values()) for row in rows])
    every = np.array(found)
    return {name: every[:, :, place] for place, name in enumerate(detectors)}


def _means(scores: Mapping[str, np.ndarray], tails: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """What a history says of a session with these scores."""
    found = {name: float(scored.mean()) for name, scored in scores.items()}
    for name, (low, high) in tails.items():
        found[f"{name}{LOW}"] = float((scores[name] < low).mean())
        found[f"{name}{HIGH}"] = float((scores[name] > high).mean())
    return found


def _range(values: Sequence[float], least: float = SMALLEST) -> tuple[float, float, float]:
    """The middle, and what is this far below and above it at least."""
    low, middle, high = np.quantile(values, [1 - TAIL, 0.5, TAIL])
    return float(min(low, middle - least)), float(middle), float(max(high, middle + least))


def _widened(
    ranges: Mapping[str, tuple[float, float, float]], queries: int, inputs: int
) -> dict[str, tuple[float, float, float]]:
    """Ranges of sessions of so many queries about other inputs than those that they were found on.

    Means of n queries about the same N inputs vary about the mean of these by s^2 / n, and those about others
    by s^2 (1 / n + 1 / N): of few inputs nobody knows well what is normal.
    """
    wider = math.sqrt(1.0 + queries / inputs)
    return {
        name: (middle - wider * (middle - low), middle, middle + wider * (high - middle))
        for name, (low, middle, high) in ranges.items()
    }


def _threshold(null: np.ndarray, rate: float) -> float:
    """What at most this share of normal scores exceeds, theirs and one more (null sorted)."""
    place = math.ceil((len(null) + 1) * (1 - rate))
    return float(null[min(place, len(null)) - 1]) if place <= len(null) else math.inf
