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

TAIL = 0.99  # quantile of normal sessions that a deviation is measured in; what one query does, at least
SPLITS = 5  # of the inputs in halves
TAIL_SHARE = 0.02  # of single queries, below and above which they are odd

Ranges = Mapping[str, tuple[float, float, float]]  # low, middle and high, by detector or its tail


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is normal: how far each detector's mean deviates at each check, and what is beyond all that.

    A session's score is its largest deviation, over detectors and the checks until now, in units of how far
    normal sessions deviate: of a detector's mean, and of the shares of queries in its `tails`, which decoys
    in between do not hide. Its null distribution are the scores of other normal sessions than those that the
    units come from, about other inputs: of half of them, at random, and of the other half, several times. So
    few inputs know less well what is normal, and at most the declared share of normal sessions is beyond the
    threshold, about, as far as traffic is like the sessions (after Barber, Candès, Ramdas and Tibshirani
    2021, "Predictive inference with the jackknife+").
    """

    checks: tuple[int, ...]
    ranges: Mapping[int, Ranges]  # at each check
    null: np.ndarray  # sorted scores of normal sessions
    session_threshold: float
    query_thresholds: Mapping[str, float]
    tails: Mapping[str, tuple[float, float]]  # of single queries, by detector

    def score(self, means: Mapping[str, float], at: int) -> tuple[float, str]:
        """The largest deviation at a check, and whose it is."""
        return _deviation(self.ranges[at], means)

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
    """Calibrate detectors on twice so many `sessions` of normal inputs as are given, at least.

    Raises ConfigError where there are too few to tell such a rate of false alarms.
    """
    if (sessions + 1) * session_false_alarms < 1:
        needed = math.ceil(1 / session_false_alarms) - 1
        raise ConfigError(
            f"serving.detection.sessions={sessions} cannot tell a false-alarm rate of "
            f"{session_false_alarms:g}; give at least {needed}"
        )
    halves: list[dict[str, np.ndarray]] = []
    for _ in range(SPLITS):
        order = rng.permutation(len(facts))
        for half in (facts.take(order[::2]), facts.take(order[1::2])):
            rows = traffic.sessions(half, max(checks), math.ceil(sessions / SPLITS), rng)
            halves.append(_scores(half, detectors, rows))
    single = {name: np.concatenate([each[name] for each in halves]) for name in detectors}
    tails = {
        name: (low, high)
        for name, found in single.items()
        for low, high in [np.quantile(found, [TAIL_SHARE, 1 - TAIL_SHARE]).tolist()]
    }
    means = [[{at: _means(one, tails, at) for at in checks} for one in _each(half)] for half in halves]
    units = [{at: _ranges([each[at] for each in half], 1 / at) for at in checks} for half in means]
    null = np.sort(
        [
            max(_deviation(normal[at], one[at])[0] for at in checks)
            for place, normal in enumerate(units)
            for one in means[place ^ 1]  # sessions about the other half of the same split
        ]
    )
    return Calibration(
        checks=tuple(checks),
        ranges={at: _mean([each[at] for each in units]) for at in checks},
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


def _each(scores: Mapping[str, np.ndarray]) -> Iterable[dict[str, np.ndarray]]:
    """The scores of each session by itself: (length,) by detector."""
    return (dict(zip(scores, one, strict=True)) for one in zip(*scores.values(), strict=True))


def _means(
    scores: Mapping[str, np.ndarray], tails: Mapping[str, tuple[float, float]], at: int
) -> dict[str, float]:
    """What a history says of a session with these scores after so many queries."""
    found = {name: float(scored[:at].mean()) for name, scored in scores.items()}
    for name, (low, high) in tails.items():
        found[f"{name}{LOW}"] = float((scores[name][:at] < low).mean())
        found[f"{name}{HIGH}"] = float((scores[name][:at] > high).mean())
    return found


def _ranges(means: Sequence[Mapping[str, float]], least: float) -> Ranges:
    """The middle of each, and what is this far below and above it at least."""
    found = {}
    for name in means[0]:
        low, middle, high = np.quantile([each[name] for each in means], [1 - TAIL, 0.5, TAIL]).tolist()
        found[name] = min(low, middle - least), middle, max(high, middle + least)
    return found


def _mean(ranges: Sequence[Ranges]) -> Ranges:
    """As wide as these are on average; of all sessions together they would be wider than scores are in."""
    found = {}
    for name in ranges[0]:
        low, middle, high = np.mean([each[name] for each in ranges], axis=0).tolist()
        found[name] = low, middle, high
    return found


def _deviation(ranges: Ranges, means: Mapping[str, float]) -> tuple[float, str]:
    """The largest deviation, in units of the ranges, and whose it is."""
    found = {}
    for name, (low, middle, high) in ranges.items():
        away = means[name] - middle
        found[name] = away / (high - middle) if away > 0 else away / (low - middle)
    name = max(found, key=lambda each: found[each])
    return found[name], name


def _threshold(null: np.ndarray, rate: float) -> float:
    """What at most this share of normal scores exceeds, theirs and one more (null sorted)."""
    place = math.ceil((len(null) + 1) * (1 - rate))
    return float(null[min(place, len(null)) - 1]) if place <= len(null) else math.inf
