"""What noise leaves of the gradients, from public constants alone; plans near another at the same epsilon."""

from __future__ import annotations

import math
from dataclasses import replace

from scipy.optimize import brentq

from dptrain.privacy.accountant import DPSGDPlan, passes

# Below the first, noise moves the weights further than any gradients could: nothing is learned, whatever the
# data (digits at 0.6: no better than chance, at 1.1: 27 %). Below the second there is little (digits at 2.4:
# 62 % in place of 94 %; census income at 2.8: worse than the most frequent class, at 22: 82 % of 85 %).
NOTHING, LITTLE = 1.0, 3.0


def signal_to_noise(plan: DPSGDPlan, parameters: int) -> float:
    """How far all gradients together could move the weights, over how far the noise does, in all steps.

    Gradients as long as clipping lets them be, all in one direction at every step, add up to
    steps * batch * norm; noise is a random walk of length sqrt(steps * parameters) * multiplier * norm.
    """
    if plan.noise_multiplier == 0.0:
        return math.inf
    return plan.expected_batch_size * math.sqrt(plan.steps / parameters) / plan.noise_multiplier


def near(plan: DPSGDPlan, *, batch: int, epochs: float) -> DPSGDPlan | None:
    """The plan with such batches and passes over the units at roughly the same epsilon; None: there is none.

    By the central limit of the composition (Bu et al. 2020, "Deep learning with Gaussian differential
    privacy"), held against the plan's own, which is exact: good for orientation. In fewer than some
    hundred steps epsilon may be off by half: a run, or `task=plan` with these values, computes it exactly.
    """
    rate = plan.sample_rate * batch / plan.expected_batch_size
    if rate > 1.0:
        return None
    steps = max(1, math.ceil(epochs / rate - 1e-9))
    other = replace(plan, sample_rate=rate, expected_batch_size=batch, steps=steps)
    wanted = math.log(_mu(plan, plan.noise_multiplier))
    low, high = math.log(1e-2), math.log(1e6)

    def excess(log_noise: float) -> float:
        return math.log(_mu(other, math.exp(log_noise))) - wanted

    if excess(low) < 0.0 or excess(high) > 0.0:
        return None
    return replace(other, noise_multiplier=math.exp(brentq(excess, low, high, xtol=1e-6)))


def _mu(plan: DPSGDPlan, noise: float) -> float:
    """The mu of the Gaussian mechanism that many steps with this noise come to."""
    if plan.sampling != "poisson":
        return math.sqrt(passes(plan, plan.steps)) / noise
    if plan.sample_rate == 1.0:
        return math.sqrt(plan.steps) / noise
    return plan.sample_rate * math.sqrt(plan.steps * math.expm1(min(noise**-2, 600.0)))
