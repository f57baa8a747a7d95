"""What is proved about a release, and everything that must be said beside its epsilon."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from dptrain.contracts import Budget, Plan, PrivacyLoss, Randomness, Sensitivity, Statement, Trust
from dptrain.contracts.rounding import percent_up, rounded_up, rounded_up_to
from dptrain.installed import code_revision, library_versions
from dptrain.privacy import accountant
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.dense_losses import epsilon_of
from dptrain.privacy.gaussian import gaussian_mu
from dptrain.privacy.noise.cost import Cost, cost, epsilon_with, stated_epsilon

OS_SEEDED = Randomness(
    secret=True,
    cryptographic=False,
    source="PyTorch generators (Mersenne Twister, Philox) seeded by the operating system",
)


CHOOSING = "Choosing among runs by their results spends privacy that this run's epsilon does not count."
OUTSIDE = (  # what every run does with private data, whatever mechanism trains
    "Holdout and test records are not protected: how well the model does on them is published.",
    CHOOSING,
    "The report's figures and leakage lines are made from training records; they are for the data's "
    "owner and not part of the release.",
    "Whether records are accepted at all, and what an error says of them, is for the data's owner too.",
)


NOTHING = ("everything: this training is not private",)  # outside a guarantee that there is not


class ByTradeoff(ABC):
    """Bounds that follow from the trade-off curve."""

    @abstractmethod
    def membership_tpr(self, fpr: float) -> float:
        """Most true positives of any membership test at this rate."""

    def tradeoff(self, alpha: float) -> float:
        return 1.0 - self.membership_tpr(alpha)

    def reconstruction_bound(self, base_rate: float) -> float:
        """Hayes et al. 2023, Theorem 2: 1 - tradeoff(base rate), of this run's own distribution."""
        return self.membership_tpr(base_rate)


@dataclass(frozen=True, kw_only=True)
class DPGuarantee(ByTradeoff):
    """An upper bound on what any adversary learns about one unit, carried as a privacy loss distribution.

    `void` names the reason why the proof does not hold for this run, if there is one.
    """

    plan: Plan
    budget: Budget
    randomness: Randomness = OS_SEEDED
    sensitivity: Sensitivity | None = None
    released: str = "the final weights; the guarantee covers every noisy step as well"
    outside: tuple[str, ...] = ()
    void: str | None = None
    curve: tuple[tuple[int, float], ...] = ()
    replayed_steps: int = 0  # repeated with the same draws after a crash, and so paid for once
    lost_steps: int = 0  # paid for and not repeated, as they would have added up otherwise: fewer were taken

    @property
    def delta(self) -> float:
        return self.budget.delta

    @cached_property
    def loss(self) -> PrivacyLoss:
        """The privacy loss distribution of the whole run."""
        return self.plan.loss()

    def epsilon(self, delta: float | None = None) -> float:
        """Epsilon at this delta (default: the budget's), with what the noise costs."""
        if delta is None or delta == self.delta:
            return self._epsilon
        return stated_epsilon(self.loss, self._draws, delta=delta)

    @cached_property
    def _epsilon(self) -> float:
        return epsilon_with(self.loss, self.cost, delta=self.delta)

    @property
    def _draws(self) -> int:
        return self.randomness.draws or 0

    @cached_property
    def cost(self) -> Cost:
        """What the noise, only nearly Gaussian, costs at the budget's delta."""
        ideal = epsilon_of(self.loss, self.delta)
        return cost(self._draws, epsilon=ideal, delta=self.delta)

    @cached_property
    def mu(self) -> float:
        """The mu of the Gaussian mechanism that has this epsilon at the run's delta; 0 for epsilon 0."""
        return gaussian_mu(self.epsilon(), self.delta)

    def membership_tpr(self, fpr: float) -> float:
        """Most true positives at this rate, with what the noise costs."""
        return accountant.most_true_positives(self.loss, fpr, self.cost)

    def statement(self) -> Statement:
        from riskcal.analysis import get_beta_from_pld  # which imports much: when a run has trained

        plan, epsilon = self.plan, self.epsilon()
        tpr = {str(fpr): self.membership_tpr(fpr) for fpr in (0.001, 0.01)}
        checks = accountant.cross_checks(plan, self.delta)
        if not getattr(plan, "loss_is_bound", False):  # riskcal reads distributions only
            checks["riskcal_tpr_at_fpr_0.01"] = float(1.0 - get_beta_from_pld(self.loss, 0.01))
        stated = self.sensitivity
        if stated is None and isinstance(plan, DPSGDPlan):
            stated = Sensitivity(most=plan.sensitivity)
        return Statement(
            private=True,
            void_reason=self.void,
            sentence=self._sentence(epsilon, tpr["0.01"]),
            released=self.released,
            unit=self.budget.unit,
            adjacency=plan.adjacency,
            units=plan.units,
            units_public=self.budget.units_public,
            delta_meaning=self._delta_meaning,
            epsilon=epsilon,
            delta=self.delta,
            **_constants(plan),
            accountant=accountant.NAME,
            cross_checks=checks,
            tpr_at_fpr=tpr,
            sensitivity=stated,
            randomness=replace(self.randomness, epsilon=self.cost.epsilon, delta=self.cost.delta),
            trust=CENTRAL,
            outside_guarantee=self.outside,
            date=now(),
            versions=library_versions(),
            code_revision=code_revision(),
            replayed_steps=self.replayed_steps,
            lost_steps=self.lost_steps,
        )

    def _sentence(self, epsilon: float, tpr: float) -> str:
        if self.void is not None:
            return f"VOID: {self.void}. No guarantee holds for this run."
        unit = self.budget.unit
        change = {
            "add_remove": f"adding or removing one {unit}",
            "replace_one": f"replacing one {unit} by any other",
        }[self.plan.adjacency]
        return (
            f"Whatever an adversary knows or computes, {change} changes the probability of any outcome of "
            f"this training by at most a factor of exp({rounded_up(epsilon, 2)}), except with a probability "
            f"of {rounded_up_to(self.delta, 6)}. At a 1 % false-positive rate, no membership test identifies "
            f"more than {percent_up(tpr)} % of the training {unit}s."
        )

    @property
    def _delta_meaning(self) -> str:
        units = self.plan.units if self.budget.units_public else None
        return delta_meaning(self.delta, self.budget.unit, units)


def _constants(plan: Plan) -> dict[str, Any]:
    """What a statement says of a plan: DP-SGD's constants by name, those of any other in its own words."""
    if not isinstance(plan, DPSGDPlan):
        return {"plan": plan.describe()}
    names = ("noise_multiplier", "max_grad_norm", "sample_rate", "steps", "expected_batch_size", "clipping")
    return {
        **{name: getattr(plan, name) for name in names},
        "sampling_run": plan.sampling,
        "sampling_assumed": plan.sampling,
    }


@dataclass(frozen=True, kw_only=True)
class NoGuarantee(ByTradeoff):
    """Nothing is proved: epsilon is infinite and every bound is one."""

    budget: Budget
    sentence: str = "Nothing is proved: this model was trained without differential privacy."
    outside: tuple[str, ...] = NOTHING
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def delta(self) -> float:
        return self.budget.delta

    @property
    def mu(self) -> float:
        return math.inf

    def epsilon(self, delta: float | None = None) -> float:  # noqa: ARG002
        return math.inf

    def membership_tpr(self, fpr: float) -> float:  # noqa: ARG002
        return 1.0

    def statement(self) -> Statement:
        return Statement(
            private=False,
            sentence=self.sentence,
            released="the final weights",
            unit=self.budget.unit,
            adjacency=self.budget.adjacency,
            epsilon=math.inf,
            delta=self.budget.delta,
            noise_multiplier=0.0,
            tpr_at_fpr={"0.001": 1.0, "0.01": 1.0},
            outside_guarantee=self.outside,
            date=now(),
            versions=library_versions(),
            code_revision=code_revision(),
        )


BY_PUBLIC_SEED = "sampling and noise were drawn from the public seed (deterministic=true)"
CENTRAL = Trust(
    model="central curator",
    sees_records="whoever trains: the computer that runs this program holds every record as it is",
    trusted=(
        "the computer that trained and everyone with access to it, its operating system and its random "
        "numbers",
        "the libraries and the code under the versions and hashes stated here",
        "the initial weights and the frozen parts of the model come of no record of these data",
    ),
)


def now() -> str:
    """The time, in UTC, to the second: 2026-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def delta_meaning(delta: float, unit: str, units: int | None) -> str:
    """What a delta allows for so many units (None: their number is secret), in words.

    A pair (epsilon, delta) is a bound by epsilon but for an event of probability delta, for each unit
    (Dwork & Roth 2014, Lemma 3.17); expectations add up, whatever the events have to do with each other.

    >>> delta_meaning(4e-05, "record", 1258).partition(", so ")[2]
    'at most 0.051 failures are expected among all 1,258.'
    """
    fails = (
        f"For each {unit} the bound by epsilon fails with a probability of at most {rounded_up_to(delta, 6)}"
    )
    if units is None:
        return f"{fails}; times the number of {unit}s, that is the expected number of failures at most."
    return f"{fails}, so at most {rounded_up_to(units * delta, 2)} failures are expected among all {units:,}."
