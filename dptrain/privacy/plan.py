"""From a budget to a plan: how much noise, for how many steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from scipy.optimize import brentq

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy import dense_losses
from dptrain.privacy.accountant import MOST_LOSS, DPSGDPlan, PrivacyLoss, most_true_positives, privacy_loss
from dptrain.privacy.dense_losses import epsilon_of
from dptrain.privacy.noise.cost import ROOM

MOST_NOISE = 1e4
MOST_EPSILON = 500.0
ROUNDING = 4 * dense_losses.ROUNDING  # of delta, a step: below it an account would mostly tell its own


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How often, and in batches of what size: either of each pair, from the configuration."""

    expected_batch_size: int | None = None
    sample_rate: float | None = None
    steps: int | None = None
    epochs: float | None = None
    sampling: str = "poisson"

    @property
    def declared(self) -> bool:
        """Whether rate and divisor are both given, so that neither is computed from the records' number."""
        return self.sample_rate is not None and self.expected_batch_size is not None

    def resolve(self, units: int) -> tuple[float, int, int]:
        """Sample rate, number of steps and expected batch size for this public number of units.

        The divisor is the declared batch size where there is one, so that nothing in a step
        depends on how many records there really are.

        >>> Rates(expected_batch_size=250, epochs=10).resolve(1000)
        (0.25, 40, 250)
        >>> Rates(sample_rate=0.3, steps=7).resolve(1000)
        (0.3, 7, 300)
        """
        if self.sample_rate is not None:
            rate = self.sample_rate
        elif self.expected_batch_size is not None:
            rate = self.expected_batch_size / units
        else:
            raise ConfigError("training: give training.expected_batch_size or training.sample_rate")
        if not 0.0 < rate <= 1.0:
            raise ConfigError(
                f"training.expected_batch_size={self.expected_batch_size} is more than the {units} units "
                f"there are; choose at most {units}"
            )
        batch = self.expected_batch_size or max(1, round(rate * units))
        if self.steps is not None:
            return rate, self.steps, batch
        if self.epochs is None:
            raise ConfigError("training: give training.steps or training.epochs")
        return rate, max(1, math.ceil(self.epochs / rate - 1e-9)), batch


def default_delta(units: int) -> float:
    """1 / (10 units), rounded down to one digit: at most a tenth of a failure is expected among all units.

    >>> default_delta(60000), default_delta(1000)
    (1e-06, 0.0001)
    """
    places = len(str(10 * units))
    digit = 10**places // (10 * units)  # in whole numbers: a quotient of fractions may round the wrong way
    return float(f"1e{1 - places}") if digit == 10 else float(f"{digit}e-{places}")


def check_delta(delta: float, units: float, unit: str = "record") -> None:
    """Raise ConfigError where delta is not below 1 / units, whose number is public or declared.

    At 1 / units a mechanism that publishes one unit, chosen by chance, satisfies it: nobody is promised
    anything (Dwork & Roth 2014, section 2.3).
    """
    if not delta * units < 1.0:
        raise ConfigError(
            f"privacy.delta={delta:g} is not below 1 / {units:,.0f} for {units:,.0f} {unit}s: to publish one "
            f"of them outright would satisfy it; choose at most {default_delta(math.ceil(units)):g}"
        )


def check_rounding(delta: float, steps: int) -> None:
    """Raise ConfigError where delta is less than what composing so many steps may round away.

    Fourier transforms of a step's losses, in double precision, are taken to the power of the number of steps,
    which multiplies their rounding error by it; the probability of large losses is uncertain by as much.
    """
    if delta < steps * ROUNDING:
        raise ConfigError(
            f"privacy.delta={delta:g} is less than what rounding leaves certain in the account of {steps:,} "
            f"steps ({steps * ROUNDING:.1g}), so that epsilon could be understated; choose a larger "
            "privacy.delta or fewer steps"
        )


def make_plan(budget: Budget, rates: Rates, units: int, *, max_grad_norm: float, clipping: str) -> DPSGDPlan:
    """The plan that spends exactly this budget: calibrated noise, or the noise asked for.

    The noise is calibrated on the exact number of steps, and epsilon ends at or just below the
    target, never above it.
    """
    sample_rate, steps, batch = rates.resolve(units)
    check_delta(budget.delta, units if budget.units_public else batch / sample_rate, budget.unit)
    check_rounding(budget.delta, steps)
    plan = DPSGDPlan(
        units=units,
        sample_rate=sample_rate,
        steps=steps,
        expected_batch_size=batch,
        max_grad_norm=max_grad_norm,
        noise_multiplier=budget.noise_multiplier or math.nan,
        clipping=clipping,
        sampling=rates.sampling,
        adjacency=budget.adjacency,
    )
    target = Target.of(budget)
    if target is None:
        return plan
    # The clipping norm has no say in the loss, so plans that differ in it alone are calibrated once.
    return replace(plan, noise_multiplier=calibrate(replace(plan, max_grad_norm=1.0), target))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a plan may cost at most: a quantity of its privacy loss, and the most it may be."""

    key: str  # epsilon | advantage | tpr_at_fpr
    most: float
    at: float  # delta, or a false-positive rate; 0 for an advantage

    @classmethod
    def of(cls, budget: Budget) -> Target | None:
        """The budget's target; None where the noise multiplier itself is given."""
        if budget.epsilon is not None:
            return cls(key="epsilon", most=budget.epsilon, at=budget.delta)
        if budget.advantage is not None:
            return cls(key="advantage", most=budget.advantage, at=0.0)
        if budget.tpr_at_fpr is not None:
            fpr, tpr = budget.tpr_at_fpr
            return cls(key="tpr_at_fpr", most=tpr, at=fpr)
        return None

    def spent(self, loss: PrivacyLoss) -> float:
        """How much of it this privacy loss costs, where part of delta is left for the noise.

        An advantage is the total variation, delta at epsilon 0 (Kaissis et al. 2024; Kulynych et
        al. 2024, "Attack-Aware Noise Calibration for Differential Privacy").
        """
        if self.key == "epsilon":
            return epsilon_of(loss, self.at * (1.0 - ROOM))
        if self.key == "advantage":
            return float(loss.get_delta_for_epsilon(0.0))
        return most_true_positives(loss, self.at)


@lru_cache(maxsize=16)
def calibrate(plan: Any, target: Target, loss: Callable[[Any], PrivacyLoss] = privacy_loss) -> float:
    """Least noise multiplier (to 0.01 %) with which the plan, by its `loss`, costs at most its target.

    A part of it, ROOM, is left for what the noise itself costs, which only the number of parameters tells.
    """

    if target.key == "epsilon" and target.most > MOST_EPSILON:
        raise ConfigError(
            f"privacy.epsilon={target.most:g} protects nobody (10 is weak already); choose at most "
            f"{MOST_EPSILON:g}, or train without privacy (mechanism=non_private)"
        )

    @cache
    def excess(log_noise: float) -> float:
        """Logarithm of what is spent over what may be: nearly a straight line in `log_noise`."""
        noisy = replace(plan, noise_multiplier=math.exp(log_noise))
        try:
            spent = target.spent(loss(noisy))
        except ConfigError:  # so little noise that losses are too large to be composed
            return math.log(MOST_LOSS / target.most)
        return math.log(max(spent, 1e-3 * target.most) / (target.most * (1.0 - ROOM)))

    low, high = _bracket(excess)
    if high is None:
        where = {"epsilon": f" at privacy.delta={target.at}", "tpr_at_fpr": f" at FPR {target.at}"}
        raise ConfigError(
            f"privacy.{target.key}={target.most}{where.get(target.key, '')} cannot be reached in "
            f"{plan.steps} steps: even a noise multiplier of {MOST_NOISE:g} spends more; take fewer steps or "
            "allow more"
        )
    log_noise = brentq(excess, low, high, xtol=1e-5)
    while excess(log_noise) > 0.0:
        log_noise += 1e-5
    return math.exp(log_noise)


def _bracket(excess: Callable[[float], float]) -> tuple[float, float | None]:
    """Log-noises between which the excess changes sign; the upper is None if it never does.

    What is spent falls about as fast as noise grows, or faster: each step is as long as the excess
    asks for, but downwards, where the accounting costs more, a short one at most.
    """
    low = high = 0.0
    while excess(high) > 0.0:
        if high > math.log(MOST_NOISE):
            return low, None
        low, high = high, high + min(excess(high), math.log(8.0)) + 0.02
    while excess(low) <= 0.0:
        low, high = low + max(excess(low), -math.log(1.4)) - 0.02, low
    return low, high
