"""A guarantee as an earlier run stated it, so that its release can be attacked again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class StatedGuarantee:
    """What a finished run proved, read back from its report.

    `tradeoff` is (false-positive rate, most true positives), increasing; between its points the
    curve, being concave, lies below the lines through its neighbours, and those are what is used: the
    bounds are never lower than the ones proved.
    """

    stated: Mapping[str, Any]
    tradeoff_points: Sequence[tuple[float, float]]
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def delta(self) -> float:
        return float(self.stated["delta"])

    @property
    def mu(self) -> float:
        return _number(self.stated["mu"])

    def epsilon(self, delta: float | None = None) -> float:
        """The stated epsilon; raises ValueError for any delta but the stated one."""
        if delta is not None and delta != self.delta:
            raise ValueError(f"delta={delta} was not stated; the run states epsilon at delta={self.delta}")
        return _number(self.stated["epsilon"])

    def tradeoff(self, alpha: float) -> float:
        return 1.0 - self.membership_tpr(alpha)

    def membership_tpr(self, fpr: float) -> float:
        """The most true positives at this rate, rounded up to the lines that enclose a concave curve."""
        rates, most = (np.asarray(column, dtype=float) for column in zip(*self.tradeoff_points, strict=True))
        at = int(np.searchsorted(rates, fpr))  # the first point at or above
        if at == len(rates):
            return 1.0
        if rates[at] == fpr or at == 0:
            return float(most[at])
        ceiling = float(most[at])
        if at >= 2:  # the line through the two points below
            slope = (most[at - 1] - most[at - 2]) / (rates[at - 1] - rates[at - 2])
            ceiling = min(ceiling, float(most[at - 1] + slope * (fpr - rates[at - 1])))
        return min(1.0, ceiling)

    def reconstruction_bound(self, base_rate: float) -> float:
        return self.membership_tpr(base_rate)

    def statement(self) -> dict[str, Any]:
        epsilon, mu = self.epsilon(), self.mu
        return {**self.stated, "epsilon": epsilon, "mu": mu}


def _number(value: float | None) -> float:
    """A number as a report writes it, in which None stands for infinity."""
    return math.inf if value is None else float(value)
