"""What a selection costs: against dp-accounting, against exact distributions; and how many runs it draws."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, logser, nbinom, norm, poisson

from dptrain.contracts import ConfigError
from dptrain.privacy.accountant import DPSGDPlan, most_true_positives, privacy_loss
from dptrain.privacy.banded import BandedPlan
from dptrain.privacy.noise.cost import stated_epsilon
from dptrain.privacy.noise.strategies import strategy
from dptrain.privacy.preconditioned import PreconditionedPlan
from dptrain.privacy.selection import RenyiLoss, RunCount, mixture, renyi, selected, stated

pytestmark = pytest.mark.run

SHAPES = [0.0, 0.5, 1.0, 3.0, math.inf]
MNIST = {"units": 60_000, "sample_rate": 256 / 60_000, "steps": 14_100, "expected_batch_size": 256}


@pytest.fixture(scope="module")
def mnist() -> DPSGDPlan:
    return DPSGDPlan(**MNIST, max_grad_norm=1.0, noise_multiplier=1.1)  # type: ignore[arg-type]


def probabilities(count: RunCount, most: int) -> np.ndarray:
    """The chances of 0, 1, ... runs, below `most`, by scipy."""
    runs = np.arange(most)
    if math.isinf(count.shape):
        return poisson.pmf(runs, count.mean)
    if count.shape == 0.0:
        return logser.pmf(runs, 1.0 - count.success)
    untruncated = nbinom(count.shape, count.success)
    return np.where(runs > 0, untruncated.pmf(runs) / untruncated.sf(0), 0.0)


def one_gaussian(noise: float) -> DPSGDPlan:
    return DPSGDPlan(
        units=100,
        sample_rate=1.0,
        steps=1,
        expected_batch_size=100,
        max_grad_norm=1.0,
        noise_multiplier=noise,
    )


@settings(max_examples=100, deadline=None)
@given(
    mean=st.floats(1.01, 300.0),
    shape=st.sampled_from(SHAPES) | st.floats(0.01, 50.0),
    logarithm=st.floats(-200.0, -0.1),
)
def test_more_runs_than_the_most_are_as_unlikely_as_is_said(
    mean: float, shape: float, logarithm: float
) -> None:
    count = RunCount(mean=mean, shape=shape)
    most = count.most(logarithm)
    assert most >= 1
    chances = probabilities(count, most + 20_000)[most + 1 :]
    assert chances.sum() <= math.exp(logarithm) * (1 + 1e-6)
    length = 1.0 if math.isinf(shape) else 1.0 / count.success
    assert most <= 10 * (mean + length) * (2.0 - logarithm), "in reason"


def test_a_selection_s_epsilon_holds_with_noise_as_it_is_drawn(mnist: DPSGDPlan) -> None:
    """All numbers of all runs cost what they would in one training, but for more runs than can be."""
    for shape in SHAPES:
        count = RunCount(mean=10.0, shape=shape)
        loss = selected(renyi(mnist), count)
        ideal = loss.get_epsilon_for_delta(1e-5)
        assert stated(loss, count, 0, delta=1e-5)[0] == ideal
        draws = 10**6 * mnist.steps
        epsilon, spent = stated(loss, count, draws, delta=1e-5)
        runs = count.most(math.log(1e-11) - ideal - 1)
        assert epsilon >= stated_epsilon(loss, runs * draws, delta=1e-5) - 1e-12 > ideal
        assert epsilon < ideal + 1e-3
        assert most_true_positives(loss, 0.01, spent) > most_true_positives(loss, 0.01)
        assert stated(loss, count, 10**30, delta=1e-5)[0] > epsilon


# ---------------------------------------------------------------------- against dp-accounting


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 10.0, 200.0])
def test_one_candidate_costs_what_dp_accounting_says(mnist: DPSGDPlan, mean: float, shape: float) -> None:
    run = SelfComposedDpEvent(PoissonSampledDpEvent(mnist.sample_rate, GaussianDpEvent(1.1)), mnist.steps)
    theirs = RdpAccountant().compose(RepeatAndSelectDpEvent(run, mean, shape))
    ours = selected(mixture([mnist]), RunCount(mean=mean, shape=shape))
    assert ours.get_epsilon_for_delta(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), abs=1e-9, rel=1e-9)
    np.testing.assert_allclose(ours.divergences, theirs.rdp, rtol=1e-9, atol=2e-9)


def test_the_figures_of_reference(mnist: DPSGDPlan) -> None:
    single = renyi(mnist)
    naive = RenyiLoss(orders=single.orders, divergences=tuple(10 * each for each in single.divergences))
    best = selected(single, RunCount(mean=10.0, shape=1.0))
    found = [loss.get_epsilon_for_delta(1e-5) for loss in (single, best, naive)]
    assert found == pytest.approx([2.60, 5.06, 9.61], abs=0.005)


# ---------------------------------------------------------------------- against the truth


@pytest.mark.parametrize("shape", SHAPES)
def test_the_exact_distribution_of_the_best_is_within_the_bound(shape: float) -> None:
    """The best of K draws of a Gaussian, the draw itself the score, computed without the theorem."""
    noise, count = 2.0, RunCount(mean=6.0, shape=shape)
    single = renyi(one_gaussian(noise))
    bound = selected(single, count)
    edges = np.linspace(-14.0, 15.0, 4001)
    chances = probabilities(count, 600)[1:]

    def best(centre: float) -> np.ndarray:
        below = norm.cdf(edges, loc=centre, scale=noise)
        at_most = np.polynomial.polynomial.polyval(below, [0.0, *chances])  # some, and all of them below
        return np.array([probabilities(count, 1)[0], *np.diff(at_most)])

    def exact(epsilon: float) -> float:
        """The hockey-stick divergence, in the direction where it is larger."""
        pairs = (best(0.0), best(1.0)), (best(1.0), best(0.0))
        return max(float(np.clip(one - math.exp(epsilon) * other, 0.0, None).sum()) for one, other in pairs)

    for epsilon in (0.25, 0.5, 1.0, 2.0):
        (proved,) = bound.get_delta_for_epsilon(epsilon)
        assert exact(epsilon) <= proved
    # The best tells more than a single run does, whose epsilon must therefore not be stated for it.
    assert exact(0.5) > privacy_loss(one_gaussian(noise)).get_delta_for_epsilon(0.5)


# ---------------------------------------------------------------------- what it depends on


@pytest.mark.parametrize("shape", SHAPES)
def test_it_costs_more_than_one_run_and_the_more_the_more_runs_there_are(
    mnist: DPSGDPlan, shape: float
) -> None:
    single = renyi(mnist)
    found = [
        selected(single, RunCount(mean=mean, shape=shape)).get_epsilon_for_delta(1e-5)
        for mean in (1.01, 2.0, 5.0, 20.0, 100.0)
    ]
    assert found == sorted(set(found))
    assert found[0] > single.get_epsilon_for_delta(1e-5)
    above = np.array(single.orders) > 1.0
    many = np.array(selected(single, RunCount(mean=5.0, shape=shape)).divergences)
    assert (many >= np.array(single.divergences))[above].all()


@pytest.fixture(scope="module")
def unlike() -> list[DPSGDPlan]:
    """Two plans of about one epsilon: a few steps at a high rate, and many at a low one."""
    few = {"sample_rate": 0.5, "steps": 4, "noise_multiplier": 1.8}
    many = {"sample_rate": 0.001, "steps": 20_000, "noise_multiplier": 0.62}
    return [DPSGDPlan(**{**MNIST, **changes}, max_grad_norm=1.0) for changes in (few, many)]  # type: ignore[arg-type]


def test_no_single_candidate_bounds_the_draw_among_them(unlike: list[DPSGDPlan]) -> None:
    """A fair draw between two plans, exactly; the candidate that was drawn is seen as well."""
    orders = np.array(renyi(unlike[0]).orders)
    curves = np.array([renyi(plan).divergences for plan in unlike])
    with np.errstate(all="ignore"):
        scaled = (orders - 1.0) * curves
        drawn = np.logaddexp(*scaled) - math.log(2.0)
        drawn = drawn / (orders - 1.0)
    known = np.isfinite(drawn)
    assert (drawn <= np.array(mixture(unlike).divergences) + 1e-12)[known].all()
    for curve in curves:
        assert (drawn > curve + 1e-3)[known].any(), "one candidate's curve is no bound for the mixture"


def test_the_mixture_costs_more_than_its_dearest_candidate(unlike: list[DPSGDPlan]) -> None:
    count = RunCount(mean=20.0, shape=1.0)
    together = selected(mixture(unlike), count).get_epsilon_for_delta(1e-5)
    each = [selected(renyi(plan), count).get_epsilon_for_delta(1e-5) for plan in unlike]
    assert together >= max(each)
    assert together == selected(mixture(unlike[::-1]), count).get_epsilon_for_delta(1e-5)


def test_clipping_does_not_matter_and_every_candidate_does(mnist: DPSGDPlan) -> None:
    other = DPSGDPlan(**{**mnist.__dict__, "max_grad_norm": 9.0})
    assert mixture([mnist, other]) == mixture([mnist])
    noisier = DPSGDPlan(**{**mnist.__dict__, "noise_multiplier": 2.0})
    assert mixture([noisier, mnist]) == mixture([mnist])


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": "shuffle", "noise_multiplier": 9.0, "steps": 40},
        {"sampling": "shuffle", "noise_multiplier": 9.0, "steps": 40, "adjacency": "replace_one"},
        {"sample_rate": 1.0, "noise_multiplier": 20.0, "steps": 40, "adjacency": "replace_one"},
        {"noise_multiplier": 1.3, "steps": 300},
    ],
)
def test_a_single_run_s_curve_agrees_with_the_authority(
    make_plan_of: Callable[..., DPSGDPlan], changes: dict[str, object]
) -> None:
    plan = make_plan_of(**changes)
    authority = privacy_loss(plan).get_epsilon_for_delta(1e-5)
    assert authority <= renyi(plan).get_epsilon_for_delta(1e-5) <= 1.35 * authority


@pytest.mark.parametrize("kind", ["steps", "steps of groups", "second moments, then steps", "one's own"])
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_sampling_under_replacement_has_no_curve_in_any_plan(
    make_plan_of: Callable[..., DPSGDPlan], kind: str, rate: float
) -> None:
    steps = make_plan_of(sample_rate=rate, adjacency="replace_one", noise_multiplier=20.0)
    shared = {each: getattr(steps, each) for each in ("units", "steps", "expected_batch_size", "adjacency")}
    shared |= {"max_grad_norm": 1.0, "noise_multiplier": 20.0}
    plan: Any = {
        "steps": steps,
        "steps of groups": BandedPlan(
            **shared, turn_rate=rate, groups=2, strategy=strategy(2, steps.steps), best_for=steps.steps
        ),
        "second moments, then steps": PreconditionedPlan(
            **shared, sample_rate=rate, covariance_share=0.2, feature_norm=5.0
        ),
        "one's own": SimpleNamespace(
            adjacency="replace_one", event=lambda: ComposedDpEvent([GaussianDpEvent(9.0), steps.event()])
        ),
    }[kind]
    if rate == 1.0:
        assert renyi(plan).get_epsilon_for_delta(1e-5) > 0.0
    else:
        with pytest.raises(ConfigError, match=r"use privacy\.adjacency=add_remove"):
            renyi(plan)


def test_orders_that_do_not_converge_are_left_out_in_silence(
    make_plan_of: Callable[..., DPSGDPlan], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loss = renyi(make_plan_of(sample_rate=0.5, steps=3, noise_multiplier=1.3))
    assert math.inf in loss.divergences
    assert caplog.records == []


def test_membership_tests_are_bounded_by_the_selection(mnist: DPSGDPlan) -> None:
    loss = selected(renyi(mnist), RunCount(mean=10.0, shape=1.0))
    alone = most_true_positives(privacy_loss(mnist), 0.01)
    epsilon = loss.get_epsilon_for_delta(1e-5)
    assert alone < most_true_positives(loss, 0.01) <= math.exp(epsilon) * 0.01 + 1e-5


# ---------------------------------------------------------------------- how many runs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.2, 4.0, 30.0])
def test_numbers_of_runs_follow_the_distribution(mean: float, shape: float) -> None:
    count, uniform = RunCount(mean=mean, shape=shape), random.Random(11).random
    drawn = np.array([count.quantile(uniform()) for _ in range(4000)])
    assert drawn.min() >= (0 if math.isinf(shape) else 1)
    chances = probabilities(count, 3000)
    assert chances.sum() == pytest.approx(1.0, abs=1e-6)
    assert (chances * np.arange(3000)).sum() == pytest.approx(mean, rel=1e-4)
    cells = [cell for cell in range(3000) if 4000 * chances[cell] >= 8]
    observed = [int((drawn == cell).sum()) for cell in cells]
    expected = [4000 * chances[cell] for cell in cells]
    observed.append(4000 - sum(observed))
    expected.append(4000 - sum(expected))
    assert chisquare(observed, expected).pvalue > 1e-3


def test_the_probabilities_are_those_of_the_paper() -> None:
    """Definition 1: (1 - gamma)^k / (gamma^-eta - 1) prod (l + eta) / (l + 1), written out."""
    for shape in (0.5, 1.0, 3.0):
        count = RunCount(mean=7.0, shape=shape)
        gamma = count.success
        for runs in (1, 2, 3, 10):
            product = math.prod((step + shape) / (step + 1) for step in range(runs))
            told = (1 - gamma) ** runs * product / (gamma**-shape - 1)
            assert probabilities(count, 11)[runs] == pytest.approx(told, rel=1e-9)


def test_names_are_shapes() -> None:
    assert [RunCount.named(name, mean=3.0).shape for name in ("geometric", "logarithmic", "poisson")] == [
        1.0, 0.0, math.inf,
    ]  # fmt: skip
    assert RunCount.named("negative_binomial", mean=3.0, shape=0.5).shape == 0.5
