"""A guarantee, and a plan, as an earlier run stated it, so that its release can be attacked again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dptrain.contracts import Statement
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.guarantee import gaussian_mu


@dataclass(frozen=True, kw_only=True)
class StatedGuarantee:
    """What a finished run proved, read back from its report.

    `tradeoff` is (false-positive rate, most true positives), increasing; between its points the
    curve, being concave, lies below the lines through its neighbours, and those are what is used: the
    bounds are never lower than the ones proved.
    """

    stated: Statement
    tradeoff_points: Sequence[tuple[float, float]]
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def delta(self) -> float:
        return self.stated.delta

    @property
    def mu(self) -> float:
        """A guess for planning, from epsilon and delta; infinite where nothing is proved."""
        return math.inf if math.isinf(self.stated.epsilon) else gaussian_mu(self.stated.epsilon, self.delta)

    def epsilon(self, delta: float | None = None) -> float:
        """The stated epsilon; raises ValueError for any delta but the stated one."""
        if delta is not None and delta != self.delta:
            raise ValueError(f"delta={delta} was not stated; the run states epsilon at delta={self.delta}")
        return self.stated.epsilon

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

    def statement(self) -> Statement:
        return self.stated


def plan_of(statement: Statement) -> DPSGDPlan | None:
    """DP-SGD's plan, as a statement describes it; None where it does not, or not in full."""
    stated = {
        key: getattr(statement, key)
        for key in (
            "units", "sample_rate", "steps", "expected_batch_size", "max_grad_norm", "noise_multiplier",
            "clipping", "adjacency",
        )
    }  # fmt: skip
    sampling = statement.sampling_run
    if sampling is None or None in stated.values():
        return None
    return DPSGDPlan(**stated, sampling=sampling)
