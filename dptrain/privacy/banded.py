"""The plan of DP-SGD with correlated noise: a banded Toeplitz strategy, and units that take turns.

Each unit belongs to one of `groups` groups, for good, and the groups take turns: a unit can take part in
every `groups`-th step only, so that with no more bands than groups no two of its participations meet in a row
of the encoded sums C x + z. Each is then a Gaussian mechanism of its own: with a unit's rate in its turn and
a strategy of length 1 the whole training costs what DP-SGD does at that rate in ceil(steps / groups) steps
(Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization", Theorem 4). Who is in which group is
drawn for each unit by itself, so that a unit more or less moves no other; the bound holds whatever the groups
are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, TypeAlias

from dp_accounting import DpEvent

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy import accountant
from dptrain.privacy.accountant import DPSGDPlan, OfClippedSums, PrivacyLoss
from dptrain.privacy.noise.strategies import (
    MOST_BANDS,
    bands_shipped,
    best_for,
    mean_squared_error,
    strategy,
)
from dptrain.privacy.plan import Rates, Target, calibrate, check_delta, check_rounding


@dataclass(frozen=True, kw_only=True)
class BandedPlan(OfClippedSums):
    """All that sampler, clipper, noise and accountant agree on; public constants, frozen.

    `noise_multiplier` is the standard deviation of the independent noise z over `max_grad_norm`; `strategy`
    is the first column of C, of length 1, the best for prefix sums of `best_for` steps.
    """

    units: int
    turn_rate: float  # a unit's chance to take part when it is its group's turn
    groups: int
    steps: int
    expected_batch_size: int
    max_grad_norm: float
    noise_multiplier: float
    strategy: tuple[float, ...]
    best_for: int
    clipping: str = "flat"
    adjacency: str = "add_remove"

    sampling: ClassVar[str] = "cyclic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", tuple(self.strategy))  # as JSON has lists
        assert 1 <= len(self.strategy) <= self.groups, "participations would meet"
        assert math.isclose(math.hypot(*self.strategy), 1.0, rel_tol=1e-12), "a column is of length 1"

    @property
    def bands(self) -> int:
        return len(self.strategy)

    @property
    def sample_rate(self) -> float:
        """A unit's chance to take part in a step, for whoever does not know its group."""
        return self.turn_rate / self.groups

    @property
    def fresh_std(self) -> float:
        """Standard deviation of what is drawn anew for each coordinate of a sum of gradients."""
        return self.noise_std / self.strategy[0]

    @property
    def prefix_error(self) -> float:
        """Root mean squared error of a coordinate of sums of the first t sums, t up to `steps`."""
        return self.noise_std * math.sqrt(mean_squared_error(self.strategy, self.steps))

    @property
    def interval(self) -> float:
        return accountant.grid(self.independent())

    def participations(self, steps: int | None = None) -> int:
        """How often a unit can take part in the first `steps` steps (default: all), at most."""
        return math.ceil((self.steps if steps is None else steps) / self.groups)

    def independent(self, steps: int | None = None) -> DPSGDPlan:
        """The plan of DP-SGD with independent noise that costs the same as the first `steps` steps.

        Unsampled participations together are one Gaussian mechanism with less noise.
        """
        count = self.participations(steps)
        whole = self.turn_rate == 1.0 and count > 0
        return DPSGDPlan(
            units=self.units,
            sample_rate=self.turn_rate,
            steps=1 if whole else count,
            expected_batch_size=self.expected_batch_size,
            max_grad_norm=self.max_grad_norm,
            noise_multiplier=self.noise_multiplier / (math.sqrt(count) if whole else 1.0),
            clipping=self.clipping,
            adjacency=self.adjacency,
        )

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        return accountant.privacy_loss(self.independent(steps), interval=interval or self.interval)

    def event(self) -> DpEvent:
        return self.independent().event()

    def describe(self) -> tuple[tuple[str, str], ...]:
        count = self.participations()
        turns = f"{self.groups:,} groups by turns, each unit in one"
        sampled = (
            "every unit of the group, not sampled"
            if self.turn_rate == 1.0
            else f"each unit of the group with probability {self.turn_rate:.6g}"
        )
        return (
            ("noise", f"correlated, {self.bands} bands, noise multiplier {self.noise_multiplier:.6g}"),
            (
                "strategy",
                f"banded Toeplitz, best for prefix sums of {self.best_for:,} steps: a constant learning rate "
                "and no momentum; with others it is as private, and less than optimal",
            ),
            ("clipping", f"{self.clipping}, to norm {self.max_grad_norm:g}"),
            ("sampling", f"{turns}; {sampled}"),
            ("participations", f"{count:,} of a unit at most, {self.groups:,} steps apart"),
            ("steps", f"{self.steps:,}, expected batch size {self.expected_batch_size:,}"),
        )


GradientPlan: TypeAlias = DPSGDPlan | BandedPlan  # of a training by noisy sums of clipped gradients


def make_banded_plan(
    budget: Budget, rates: Rates, units: int, *, max_grad_norm: float, clipping: str, bands: int | None
) -> BandedPlan:
    """The plan with correlated noise that spends exactly this budget; `bands` None: those of least error.

    With training.sampling=shuffle nothing is sampled: groups are batches, and all of a batch takes part.
    Raises ConfigError where there are no such bands, or where they do not go with the rates.
    """
    rate, steps, batch = rates.resolve(units)
    check_delta(budget.delta, units if budget.units_public else batch / rate, budget.unit)
    check_rounding(budget.delta, steps)
    batches = math.ceil(1.0 / rate - 1e-9)  # groups where nothing is sampled
    sampled = rates.sampling == "poisson"
    most = min(steps, math.floor(1.0 / rate + 1e-9) if sampled else batches)
    if bands is not None:
        _check(bands, most, rate=rate, steps=steps, sampled=sampled)

    def with_bands(count: int) -> BandedPlan:
        groups = count if sampled else batches
        return BandedPlan(
            units=units,
            turn_rate=min(1.0, groups * rate) if sampled else 1.0,
            groups=groups,
            steps=steps,
            expected_batch_size=batch,
            max_grad_norm=1.0,  # it has no say in the noise multiplier: such plans are calibrated once
            noise_multiplier=budget.noise_multiplier or math.nan,
            strategy=strategy(count, steps),
            best_for=best_for(count, steps),
            clipping=clipping,
            adjacency=budget.adjacency,
        )

    target = Target.of(budget)
    if bands is None and sampled:
        if target is None:
            raise ConfigError(
                "mechanism.bands=null with privacy.noise_multiplier: more bands always mean less error and a "
                "larger epsilon, so nothing says how many are best; give mechanism.bands, or privacy.epsilon"
            )
        alone = _calibrated(with_bands(1), target)
        bands = min(bands_shipped(most), key=lambda count: _error(with_bands(count), alone))
    plan = _calibrated(with_bands(bands or min(most, MOST_BANDS)), target)
    return replace(plan, max_grad_norm=max_grad_norm)


def _error(plan: BandedPlan, alone: BandedPlan) -> float:
    """The error of a plan at about the epsilon of the one with a single band: to compare bands by.

    By the central limit of the composition (Bu et al. 2020): the noise is 10 % off at most where many steps
    are taken, and alike for neighbouring numbers of bands, among which the least error differs by less than 1
    %.
    """
    square = math.expm1(min(alone.noise_multiplier**-2, 600.0))
    times = alone.turn_rate**2 * alone.participations() / (plan.turn_rate**2 * plan.participations())
    noise = math.log1p(square * times) ** -0.5
    return replace(plan, noise_multiplier=noise).prefix_error


@lru_cache(maxsize=64)
def _calibrated(plan: BandedPlan, target: Target | None) -> BandedPlan:
    """The plan with the least noise that keeps to the target, where there is one."""
    if target is None:
        return plan
    noise = calibrate(replace(plan, noise_multiplier=1.0).independent(), target)
    return replace(
        plan, noise_multiplier=noise * (math.sqrt(plan.participations()) if plan.turn_rate == 1.0 else 1)
    )


def _check(bands: int, most: int, *, rate: float, steps: int, sampled: bool) -> None:
    if bands <= min(most, MOST_BANDS):
        return
    if bands > steps:
        why = f"is more than the {steps} steps there are"
    elif bands <= most:
        why = "is more than there are strategies of"
    elif sampled:
        why = f"asks for a sample rate of {bands * rate:.3g} in a group's turn, bands times that of each step"
    else:
        why = f"is more than the {most} batches between two participations of a unit"
    raise ConfigError(
        f"mechanism.bands={bands} {why}; choose at most {min(most, MOST_BANDS)}, or null for the best"
    )
