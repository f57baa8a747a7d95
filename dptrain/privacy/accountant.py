"""DP-SGD's plan and its loss: dp-accounting's privacy loss distributions, with Opacus as a cross-check.

The authority is the distribution (PLD; Koskela et al. 2020, Doroshenko et al. 2022,
"Connect the Dots"), rounded pessimistically. RDP and PRV from Opacus stand beside it only to
show that two independent implementations agree; the `gdp` accountant understates and is refused.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.pld_pmf import PLDPmf
from opacus.accountants import PRVAccountant, RDPAccountant

from dptrain.contracts import ConfigError, Plan
from dptrain.privacy.dense_losses import self_composed
from dptrain.privacy.noise.cost import IDEAL, Cost, stated_epsilon
from dptrain.privacy.sampled_gaussian import sampled_gaussian

NAME = f"dp-accounting PLD {version('dp-accounting')}"
PrivacyLoss: TypeAlias = pld.PrivacyLossDistribution

FINEST = 1e-4  # a loss; smaller intervals cost more and gain nothing visible
MOST_POINTS_OF_ONE, MOST_POINTS = 2**19, 2**22  # of the losses of one step, and of all together
MOST_LOSS = 700.0  # beyond, exp(loss) leaves double precision

_NEIGHBOURS = {"add_remove": pld.NeighborRel.ADD_OR_REMOVE_ONE, "replace_one": pld.NeighborRel.REPLACE_ONE}


class OfClippedSums:
    """What plans have in common by which noise is added to sums of clipped gradients."""

    max_grad_norm: float
    noise_multiplier: float
    adjacency: str

    @property
    def sensitivity(self) -> float:
        """Most that one change of the data set, as `adjacency` has it, moves a sum that it takes part in."""
        return self.max_grad_norm * (2.0 if self.adjacency == "replace_one" else 1.0)

    @property
    def most(self) -> float:
        """The same in units of noise over noise multiplier, of all that noise is added to."""
        return self.sensitivity / self.max_grad_norm

    @property
    def noise_std(self) -> float:
        """Standard deviation of each coordinate's noise on the *sum*, encoded where noise is correlated."""
        return self.noise_multiplier * self.max_grad_norm


@dataclass(frozen=True, kw_only=True)
class DPSGDPlan(OfClippedSums):
    """All that sampler, clipper, noise and accountant of DP-SGD agree on; public constants, frozen.

    `noise_multiplier` is the noise's standard deviation over `max_grad_norm`, the most that
    one unit can add to a sum of clipped gradients. `expected_batch_size` is the fixed divisor.
    """

    units: int
    sample_rate: float
    steps: int
    expected_batch_size: int
    max_grad_norm: float
    noise_multiplier: float
    clipping: str = "flat"  # flat | per_layer | automatic
    sampling: str = "poisson"  # poisson | shuffle
    adjacency: str = "add_remove"

    @property
    def fresh_std(self) -> float:
        """Of that, what is drawn anew at each step: all of it."""
        return self.noise_std

    @property
    def interval(self) -> float:
        return grid(self)

    def loss(self, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
        return privacy_loss(self, steps, interval=interval)

    def event(self) -> DpEvent:
        """The plan for dp-accounting's Rényi accountant, which `event` below asks."""
        rate, times = _mechanism(self, self.steps)
        step = GaussianDpEvent(_noise(self))
        return SelfComposedDpEvent(step if rate == 1.0 else PoissonSampledDpEvent(rate, step), times)

    def describe(self) -> tuple[tuple[str, str], ...]:
        return (
            ("noise", f"noise multiplier {self.noise_multiplier:.4g}"),
            ("clipping", f"{self.clipping}, to norm {self.max_grad_norm:g}"),
            ("sampling", f"{self.sampling}, sample rate {self.sample_rate:.4g}"),
            ("steps", f"{self.steps:,}, expected batch size {self.expected_batch_size:,}"),
        )


def privacy_loss(plan: DPSGDPlan, steps: int | None = None, *, interval: float | None = None) -> PrivacyLoss:
    """Privacy loss distribution of the first `steps` steps of a plan (default: all of them).

    Poisson sampling is amplified by its rate. Shuffled batches are not: in one pass over the
    records each is in one batch, and in which does not depend on the others, so a pass counts as one
    Gaussian mechanism without amplification. `interval` is the
    distribution's (default: `grid`); only distributions of the same can be composed.

    Raises ConfigError where losses are so large that nothing is protected, and nothing is proved.
    """
    steps = plan.steps if steps is None else steps
    interval = grid(plan, steps) if interval is None else interval
    if steps == 0 or plan.noise_multiplier == math.inf:
        return pld.identity(interval)
    rate, times = _mechanism(plan, steps)
    one = _one_step(plan.noise_multiplier, rate, plan.adjacency, interval)
    return self_composed(one, times)


def grid(plan: DPSGDPlan, steps: int | None = None) -> float:
    """The interval that losses are rounded up to: 1e-4, and more where that would take too many points.

    Losses of one step lie within 1 / (2 noise^2) + 10 / noise (but for exp(-50), which is what
    dp-accounting cuts off). Those of `steps` together have a mean of at most `steps` times the
    smaller of rate / (2 noise^2) and log(1 + rate^2 (exp(1 / noise^2) - 1)), by convexity of the
    divergence and by the chi-squared one.
    """
    steps = plan.steps if steps is None else steps
    if steps == 0 or plan.noise_multiplier == math.inf:
        return FINEST
    rate, times = _mechanism(plan, steps)
    noise = _noise(plan)
    square = max(noise, 1e-9) ** -2
    one = square / 2 + 10 / noise
    mean = times * min(rate * square / 2, math.log1p(rate**2 * math.expm1(min(square, 700.0))))
    if max(one, mean) > MOST_LOSS:
        raise ConfigError(
            f"privacy.noise_multiplier={plan.noise_multiplier:.3g} is too little for {plan.steps} "
            f"steps at a sample rate of {plan.sample_rate:.3g}: epsilon would be in the hundreds or more, "
            "which protects nobody; add noise, or train without privacy (mechanism=non_private)"
        )
    together = one + 2 * mean + 10 * math.sqrt(2 * mean)
    return max(FINEST, one / MOST_POINTS_OF_ONE, together / MOST_POINTS)


def _mechanism(plan: DPSGDPlan, steps: int) -> tuple[float, int]:
    """The rate at which each mechanism that a plan composes is amplified, and how many there are."""
    return (plan.sample_rate, steps) if plan.sampling == "poisson" else (1.0, passes(plan, steps))


def _noise(plan: DPSGDPlan) -> float:
    """Noise over the sensitivity: to replace a record moves the sum by up to twice the clipping norm."""
    return plan.noise_multiplier / (2.0 if plan.adjacency == "replace_one" else 1.0)


@runtime_checkable
class _HasEvent(Protocol):
    def event(self) -> DpEvent: ...


@runtime_checkable
class _HasIndependent(Protocol):
    def independent(self) -> DPSGDPlan: ...


def event(plan: Plan) -> DpEvent:
    """A plan for dp-accounting's Rényi accountant.

    Raises ConfigError where a plan does not tell, and for Poisson sampling where one record is replaced by
    another: no Rényi curve of that is known.
    """
    if not isinstance(plan, _HasEvent):
        raise ConfigError(
            f"mechanism: `{type(plan).__name__}` has no `event()`, so the cost of a private selection and of "
            "a search led by results is not known; give it one, or use a grid (hydra/sweeper=basic)"
        )
    found = plan.event()
    if plan.adjacency == "replace_one" and _is_sampled(found):
        raise ConfigError(
            "privacy.adjacency=replace_one: the selection's epsilon is not known for Poisson sampling under "
            "it; use privacy.adjacency=add_remove"
        )
    return found


def _is_sampled(found: DpEvent) -> bool:
    """Whether any part of an event is sampled."""
    if isinstance(found, PoissonSampledDpEvent):
        return True
    parts = [getattr(found, "event", None), *getattr(found, "events", ())]
    return any(_is_sampled(part) for part in parts if part is not None)


def batches_a_pass(plan: DPSGDPlan) -> int:
    """How many batches a shuffled plan makes of all records."""
    return math.ceil(plan.units / plan.expected_batch_size)


def passes(plan: DPSGDPlan, steps: int) -> int:
    """How often a shuffled plan has begun to go over the records after `steps` steps."""
    return math.ceil(steps / batches_a_pass(plan))


@lru_cache(maxsize=64)
def _one_step(noise_multiplier: float, rate: float, adjacency: str, interval: float) -> PrivacyLoss:
    if adjacency == "add_remove" and rate < 1.0:
        return sampled_gaussian(noise_multiplier, rate, interval)
    return pld.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=rate,
        neighboring_relation=_NEIGHBOURS[adjacency],
        value_discretization_interval=interval,
    )


def most_true_positives(loss: PrivacyLoss, false_positive_rate: float, spent: Cost = IDEAL) -> float:
    """Most true positives of any test with this false-positive rate: the trade-off curve's complement.

    Each (epsilon, delta) pair of the distribution proves TPR <= delta + exp(epsilon) FPR and,
    read the other way, TPR <= 1 - exp(-epsilon) (1 - delta - FPR); the least of them all is the
    curve itself (Dong et al. 2022, Proposition 6). With noise that is not ideal the test has no more than
    `spent` allows beside what ideal noise would let it have.
    """
    factor = math.exp(spent.ratio)
    false_positive_rate = factor * false_positive_rate + spent.beyond
    if false_positive_rate >= 1.0:
        return 1.0
    epsilons, deltas = _profile(loss)
    forward = deltas + np.exp(epsilons) * false_positive_rate
    backward = 1.0 - np.exp(-epsilons) * np.clip(1.0 - deltas - false_positive_rate, 0.0, None)
    ideal = float(min(forward.min(), backward.min(), 1.0))
    return min(1.0, factor * ideal + spent.beyond)


@lru_cache(maxsize=8)
def _profile(loss: PrivacyLoss) -> tuple[np.ndarray, np.ndarray]:
    """Deltas of a distribution on a fine grid of epsilons."""
    epsilons = np.linspace(0.0, 40.0, 4001)
    if not isinstance(loss, pld.PrivacyLossDistribution):  # of a private selection, by Rényi divergences
        return epsilons, np.asarray(loss.get_delta_for_epsilon(epsilons))
    # dp-accounting adds up one loss after the other, which takes a second in place of a hundredth.
    return epsilons, np.maximum(*(_deltas(pmf, epsilons) for pmf in (loss._pmf_remove, loss._pmf_add)))


def _deltas(pmf: PLDPmf, epsilons: np.ndarray) -> np.ndarray:
    """Delta at each of these epsilons, none below 0: the sum of (1 - exp(epsilon - loss)) above it."""
    dense = pmf.to_dense_pmf()
    losses = (np.arange(dense.size) + dense._lower_loss) * dense._discretization
    losses, masses = losses[losses > 0.0], dense._probs[losses > 0.0]
    upper, lower = (
        np.append(np.cumsum(each[::-1])[::-1], 0.0) for each in (masses, masses * np.exp(-losses))
    )
    above = np.searchsorted(losses, epsilons, side="right")
    return dense._infinity_mass + upper[above] - np.exp(epsilons) * lower[above]


def cross_checks(plan: Plan, delta: float) -> dict[str, float]:
    """Epsilon by Opacus' RDP and PRV accountants, of Poisson, add-or-remove DP-SGD; empty for other plans.

    A plan with `independent()`, DP-SGD's plan that costs the same, is checked by that.

    PRV fails in corners (tiny rates, very large epsilon); it is then left out, not repaired.
    """
    if isinstance(plan, _HasIndependent):
        plan = plan.independent()
    if not isinstance(plan, DPSGDPlan) or plan.sampling != "poisson" or plan.adjacency != "add_remove":
        return {}
    history = [(plan.noise_multiplier, plan.sample_rate, plan.steps)]
    found: dict[str, float] = {}
    for name, accountant in {"opacus_rdp": RDPAccountant(), "opacus_prv": PRVAccountant()}.items():
        accountant.history = history
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RDP: "optimal order is the largest alpha"
            try:
                epsilon = accountant.get_epsilon(delta=delta)
            except (RuntimeError, ValueError, OverflowError):
                continue
        if math.isfinite(epsilon) and epsilon >= 0.0:
            found[name] = float(epsilon)
    return found


@dataclass(frozen=True)
class Curve:
    """Epsilon over the steps of a plan, exact at a few anchors and never understated between them."""

    plan: Plan
    delta: float
    anchors: int = 12
    parameters: int = 0  # whose noise costs what `noise.cost` says

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """(step, epsilon) at 0 and at `anchors` steps, denser early where epsilon climbs fastest."""
        return _points(self)

    def at_most(self, step: int) -> float:
        """An upper bound on epsilon after `step` steps: its value at the next anchor."""
        return next(epsilon for anchor, epsilon in self.points if anchor >= step)


@lru_cache(maxsize=16)
def _points(curve: Curve) -> tuple[tuple[int, float], ...]:
    fractions = np.linspace(1 / curve.anchors, 1.0, curve.anchors) ** 2
    steps = sorted({max(1, round(curve.plan.steps * fraction)) for fraction in fractions})
    losses = ((step, curve.plan.loss(step)) for step in steps)
    spent = (
        (step, stated_epsilon(loss, step * curve.parameters, delta=curve.delta)) for step, loss in losses
    )
    return (0, 0.0), *spent
