"""The perturbed minimum: how far one record moves it, against scikit-learn's, its noise, its accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dp_accounting.dp_event import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from dptrain.contracts import Budget
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.one_release import calibrated
from dptrain.privacy.perturbed_minimum import TOLERANCE, MinimumPlan, noised
from dptrain.privacy.ridge_logistic import Minimum, minimum

Rows = tuple[torch.Tensor, torch.Tensor]


def plan(**changes: object) -> MinimumPlan:
    values: dict[str, object] = {"units": 50, "noise_multiplier": 1.0, "ridge": 2.0, "feature_norm": 1.0}
    return MinimumPlan(**(values | changes))  # type: ignore[arg-type]


def drawn(seed: int, count: int = 50, size: int = 6, classes: int = 3) -> Rows:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=rng, dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return rows, torch.randint(0, classes, (count,), generator=rng)


def found(rows: Rows, asked: MinimumPlan, offsets: torch.Tensor | None = None) -> torch.Tensor:
    weights = torch.ones(len(rows[0]), dtype=torch.float64)
    return found_of((*rows, weights), asked, offsets)


def found_of(
    batch: tuple[torch.Tensor, ...], asked: MinimumPlan, offsets: torch.Tensor | None = None
) -> torch.Tensor:
    offsets = torch.zeros(3) if offsets is None else offsets
    return minimum([batch], ridge=asked.ridge, offsets=offsets, tolerance=TOLERANCE).weights  # type: ignore[list-item]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), ridge=st.floats(0.05, 50.0), skew=st.floats(-20.0, 0.0))
def test_no_record_moves_it_further_than_claimed(seed: int, ridge: float, skew: float) -> None:
    asked, offsets = plan(ridge=ridge), torch.tensor([skew, 0.0, 0.0])
    rows, labels = drawn(seed)
    labels[0] = 0  # of the class that the offsets speak against
    whole, less = (found(each, asked, offsets) for each in ((rows, labels), (rows[1:], labels[1:])))
    assert float((whole - less).norm()) <= asked.sensitivity
    other = labels.clone()
    other[0] = 1
    replaced = found((torch.cat([-rows[:1], rows[1:]]), other), asked, offsets)
    assert float((whole - replaced).norm()) <= 2 * asked.sensitivity


def test_a_record_can_move_it_nearly_that_far() -> None:
    asked = plan(ridge=100.0)
    one = torch.zeros(1, 6, dtype=torch.float64)
    one[0, 0] = 1.0
    alone = found((one, torch.zeros(1, dtype=torch.int64)), asked, torch.tensor([-30.0, 0.0, -30.0]))
    assert 0.98 < float(alone.norm()) / asked.sensitivity <= 1.0


def test_it_is_scikit_learns() -> None:
    rows, labels = drawn(3, count=300)
    asked = plan(ridge=0.5)
    other = LogisticRegression(C=1 / asked.ridge, fit_intercept=False, tol=1e-10, max_iter=10_000)
    other.fit(rows.float().double().numpy(), labels.numpy())
    np.testing.assert_allclose(found((rows, labels), asked).T.numpy(), other.coef_, atol=2 * TOLERANCE / 0.5)


def test_records_that_weigh_less_count_less() -> None:
    rows, labels = drawn(5)
    twice = (torch.cat([rows, rows]), torch.cat([labels, labels]), torch.full((100,), 0.5))
    halves = found_of(twice, plan())
    torch.testing.assert_close(halves, found((rows, labels), plan()), atol=2 * TOLERANCE, rtol=0.0)


def test_noise_is_that_of_the_plan() -> None:
    asked = plan(noise_multiplier=3.0, ridge=7.0)
    noisy = noised(Minimum(weights=torch.zeros(400, 500)), asked, NoiseSource(bytes(32)).add).weights
    assert float(noisy.std()) == pytest.approx(3.0 * (math.sqrt(2) + 2 * TOLERANCE) / 7.0, rel=0.01)


@pytest.mark.parametrize(("adjacency", "times"), [("add_remove", 1.0), ("replace_one", 2.0)])
def test_it_costs_what_one_gaussian_mechanism_does(adjacency: str, times: float) -> None:
    asked = plan(noise_multiplier=2.5, adjacency=adjacency)
    other = PLDAccountant().compose(GaussianDpEvent(2.5 / times)).get_epsilon(1e-5)
    assert asked.loss().get_epsilon_for_delta(1e-5) == pytest.approx(other, rel=1e-3)
    spent = calibrated(plan(adjacency=adjacency), Budget(epsilon=2.0, delta=1e-5, adjacency=adjacency))
    assert spent.loss().get_epsilon_for_delta(1e-5) == pytest.approx(2.0, rel=1e-3)


def test_a_minimum_is_found_where_values_differ_by_rounding_alone() -> None:
    """Many rows with columns that nearly add up to a constant: flat one way, steep another."""
    rng = torch.Generator().manual_seed(0)
    coded = torch.randint(8, (20_000, 4), generator=rng)
    rows = torch.cat([torch.nn.functional.one_hot(each, 8) for each in coded.T], dim=1).double() / 2.0
    labels = (torch.rand(20_000, generator=rng) < 0.2 + 0.07 * coded[:, 0]).long()
    weights = torch.ones(20_000, dtype=torch.float64)
    found = minimum(
        [(rows, labels, weights)], ridge=1.0, offsets=torch.zeros(2), tolerance=5e-5
    ).weights  # fmt: skip
    odds = (rows.float().double() @ found).softmax(1)
    odds[torch.arange(len(odds)), labels] -= 1.0
    assert float((rows.float().double().T @ odds + found).norm()) <= 5e-5
