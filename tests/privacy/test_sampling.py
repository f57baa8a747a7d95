"""Batches are drawn exactly as they are accounted for."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chisquare, geom, ks_2samp

from dptrain.contracts import DptrainError
from dptrain.privacy import sampling
from dptrain.privacy.noise.keys import Stream
from dptrain.privacy.sampling import PoissonSampler, ShuffleSampler, Units, make_sampler, passed_over, poisson

pytestmark = pytest.mark.run

KEY = bytes(range(32))


@pytest.fixture
def stream():
    """A step's random numbers, the same in each test."""
    return Stream(KEY)


def draws(sampler, steps, records):
    """Which step drew which record: (steps, records), 0 or 1."""
    taken = torch.zeros(steps, records)
    for step in range(steps):
        taken[step, sampler.draw()] = 1.0
    return taken


@pytest.mark.parametrize("rate", [0.003, 0.3, 0.97])
def test_poisson_draws_each_record_at_the_rate_of_the_plan(make_plan_of, rate):
    taken = draws(PoissonSampler(make_plan_of(sample_rate=rate), Units(400), KEY), 500, 400)
    assert binomtest(int(taken.sum()), taken.numel(), rate).pvalue > 1e-3
    # Nor does any single record depart from it more than the luckiest of 400 may.
    for record in taken.sum(0).long().tolist():
        assert binomtest(record, 500, rate).pvalue > 1e-6


def test_poisson_draws_records_independently(make_plan_of):
    taken = draws(PoissonSampler(make_plan_of(sample_rate=0.3), Units(40), KEY), 4000, 40)
    correlation = torch.corrcoef(taken.T) - torch.eye(40)
    assert correlation.abs().max() < 5 / 4000**0.5
    # Batches of a fixed size would force a mean of -1/39 upon the pairs.
    assert abs(float(correlation.sum()) / (40 * 39)) < 0.003


def test_poisson_draws_steps_independently(make_plan_of):
    taken = draws(PoissonSampler(make_plan_of(sample_rate=0.3), Units(200), KEY), 400, 200)
    together = int((taken[1:] * taken[:-1]).sum())
    assert binomtest(together, 399 * 200, 0.09).pvalue > 1e-3


def test_poisson_batches_vary_in_size_and_may_be_empty(make_plan_of):
    sampler = PoissonSampler(make_plan_of(sample_rate=0.01), Units(100), KEY)
    sizes = torch.tensor([len(sampler.draw()) for _ in range(1000)])
    assert binomtest(int((sizes == 0).sum()), 1000, 0.99**100).pvalue > 1e-3
    assert sizes.double().var() == pytest.approx(0.99, rel=0.15)


def test_a_rate_of_one_draws_everything(make_plan_of):
    drawn = PoissonSampler(make_plan_of(sample_rate=1.0), Units(50), KEY).draw()
    assert drawn.tolist() == list(range(50))


GROUPS = torch.tensor([7, 3, 7, 7, 12, 3, 9, 7])  # four patients of 4, 2, 1 and 1 records


def test_each_sampled_patient_contributes_exactly_one_record(make_plan_of):
    units = Units(8, GROUPS)
    assert len(units) == 4
    sampler = PoissonSampler(make_plan_of(sample_rate=0.6), units, KEY)
    patients = torch.zeros(4, dtype=torch.int64)
    for _ in range(1000):
        groups = GROUPS[sampler.draw()]
        assert len(groups) == len(groups.unique())
        patients += (groups[:, None] == GROUPS.unique()).sum(0)
    for count in patients.tolist():
        assert binomtest(count, 1000, 0.6).pvalue > 1e-4


def test_a_patients_records_take_turns_evenly(make_plan_of):
    sampler = PoissonSampler(make_plan_of(sample_rate=1.0), Units(8, GROUPS), KEY)
    taken = draws(sampler, 2000, 8).sum(0)
    assert chisquare(taken[GROUPS == 7].numpy()).pvalue > 1e-3
    assert taken[GROUPS == 9].item() == 2000


@pytest.mark.parametrize("groups", [None, torch.arange(103) // 3])
def test_shuffle_covers_every_unit_once_a_pass(make_plan_of, groups):
    units = Units(103, groups)
    plan = make_plan_of(units=len(units), expected_batch_size=10, sampling="shuffle")
    sampler = ShuffleSampler(plan, units, KEY)
    unit_of_record = torch.arange(103) if groups is None else groups
    passes = []
    for _ in range(3):
        batches = [unit_of_record[sampler.draw()] for _ in range(-(-len(units) // 10))]
        together = torch.cat(batches)
        assert sorted(together.tolist()) == list(range(len(units)))
        passes.append(together)
    assert not torch.equal(passes[0], passes[1])


def test_shuffled_units_go_to_batches_evenly_and_one_by_one(make_plan_of):
    plan = make_plan_of(units=40, expected_batch_size=10, sampling="shuffle")
    sampler = ShuffleSampler(plan, Units(40), KEY)
    taken = torch.stack([draws(sampler, 4, 40) for _ in range(3000)])  # (passes, batches, units)
    assert (taken.sum(1) == 1).all()
    assert chisquare(taken.sum((0, 2)).numpy()).pvalue > 1e-3
    # Batches of a fixed size would force a correlation of -1/39 upon the pairs.
    correlation = torch.corrcoef(taken[:, 0].T) - torch.eye(40)
    assert abs(float(correlation.sum()) / (40 * 39)) < 0.003
    assert binomtest(int((taken[1:] * taken[:-1]).sum()), 2999 * 40, 0.25).pvalue > 1e-3


@settings(deadline=None)  # no test depends on time
@given(
    units=st.integers(1, 60), sampling=st.sampled_from(["poisson", "shuffle"]), batch=st.integers(1, 70),
    rate=st.floats(0.01, 1.0), grouped=st.booleans(), key=st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_one_unit_more_moves_no_other(make_plan_of, units, sampling, batch, rate, grouped, key):
    """What the accountant composes: a sum moves by one gradient, and only where the new unit takes part."""
    plan = make_plan_of(units=units, sampling=sampling, sample_rate=rate, expected_batch_size=batch)
    ids = torch.arange(3 * units) % units if grouped else None
    more = torch.cat([ids, torch.tensor([units] * 2)]) if grouped else None
    new = set(range(3 * units, 3 * units + 2)) if grouped else {units}
    fewer = make_sampler(plan, Units(3 * units if grouped else units, ids), key)
    whole = make_sampler(plan, Units(3 * units + 2 if grouped else units + 1, more), key)
    steps = 3 * math.ceil(units / batch)
    often = 0
    for _ in range(steps):
        drawn, again = fewer.draw().tolist(), whole.draw().tolist()
        assert [each for each in again if each not in new] == drawn
        assert len(again) - len(drawn) <= 1
        often += len(again) - len(drawn)
    assert often == 3 or sampling == "poisson"


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_state_goes_on_with_the_very_same_draws(make_plan_of, sampling):
    plan = make_plan_of(units=4, sampling=sampling, sample_rate=0.3, expected_batch_size=3)

    def sampler(seed):
        return make_sampler(plan, Units(8, GROUPS), bytes([seed]) * 32)

    first = sampler(1)
    for _ in range(3):  # shuffling: in the middle of the second pass
        first.draw()
    state = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in first.state_dict().items()
    }
    second = sampler(2)
    second.load_state_dict(state)
    for _ in range(20):
        assert torch.equal(first.draw(), second.draw())


def test_the_plan_chooses_the_sampler(make_plan_of):
    assert isinstance(make_sampler(make_plan_of(), Units(5), KEY), PoissonSampler)
    assert isinstance(make_sampler(make_plan_of(sampling="shuffle"), Units(5), KEY), ShuffleSampler)


def by_definition(count, rate, rng):
    """Poisson sampling as it is defined: a coin for each unit."""
    return (torch.rand(count, dtype=torch.float64, generator=rng) < rate).nonzero().squeeze(1)


@pytest.mark.parametrize(("count", "rate"), [(1, 0.5), (50, 0.04), (2000, 0.01), (300, 0.9), (7, 1.0)])
def test_batches_are_as_large_as_those_of_the_definition(rng, count, rate, stream):
    trials = 4000
    sizes = torch.tensor([len(poisson(count, rate, stream)) for _ in range(trials)])
    seen = sizes.bincount(minlength=count + 1).numpy()
    expected = trials * binom.pmf(np.arange(count + 1), count, rate)
    common = expected > 5
    if common.sum() > 1:
        left = (seen[~common].sum(), expected[~common].sum())
        seen, expected = np.append(seen[common], left[0]), np.append(expected[common], left[1])
        few = expected > 1
        assert chisquare(seen[few], expected[few] * seen[few].sum() / expected[few].sum()).pvalue > 1e-3
    defined = torch.tensor([len(by_definition(count, rate, rng)) for _ in range(trials)])
    assert ks_2samp(sizes.numpy(), defined.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.003, 0.3])
def test_every_place_is_drawn_alike(rate, stream):
    count, trials = 300, 10_000 if rate < 0.1 else 1000
    drawn = torch.cat([poisson(count, rate, stream) for _ in range(trials)])
    assert chisquare(drawn.bincount(minlength=count).numpy()).pvalue > 1e-3


def test_gaps_are_geometric(stream):
    rate = 0.01
    places = poisson(2_000_000, rate, stream)
    gaps = (places[1:] - places[:-1]).numpy()
    edges = np.append(np.arange(1, 400, 20), np.inf)
    seen, _ = np.histogram(gaps, edges)
    expected = len(gaps) * np.diff(geom.cdf(edges - 1, rate))
    assert chisquare(seen, expected).pvalue > 1e-3
    # Nor does one gap foretell the next.
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / len(gaps) ** 0.5


def test_whole_batches_are_as_likely_as_independent_coins_make_them(stream):
    count, rate, trials = 5, 0.37, 10_000
    outcomes = torch.tensor([int((2 ** poisson(count, rate, stream)).sum()) for _ in range(trials)])
    ones = np.array([bin(outcome).count("1") for outcome in range(2**count)])
    expected = trials * rate**ones * (1 - rate) ** (count - ones)
    assert chisquare(outcomes.bincount(minlength=2**count).numpy(), expected).pvalue > 1e-3


def test_a_batch_that_the_first_numbers_do_not_reach_goes_on(monkeypatch, stream):
    monkeypatch.setattr(sampling.math, "ceil", lambda _: -7)  # one gap at a time
    drawn = torch.cat([poisson(100, 0.1, stream) for _ in range(500)])
    assert binomtest(len(drawn), 50_000, 0.1).pvalue > 1e-3
    assert chisquare(drawn.bincount(minlength=100).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("rate", [1e-7, 1e-4, 0.3])
@pytest.mark.parametrize("means", [0.1, 1, 10, 36])
def test_rounding_is_as_small_as_is_said(rate, means):
    """Where the number of units passed over steps from k - 1 to k, by bisection over all doubles."""
    k = max(1, round(means / rate))
    low, high = 0.0, 1.0  # k or more are passed over at `low`, fewer at `high`
    while np.nextafter(low, 1) < high:
        middle = (low + high) / 2
        middle = middle if low < middle < high else float(np.nextafter(low, 1))
        passed = float(passed_over(torch.tensor([middle], dtype=torch.float64), rate))
        low, high = (middle, high) if passed >= k else (low, middle)
    getcontext().prec = 60
    step = -(1 - Decimal(rate)).ln()
    off = abs(-Decimal(low).ln() - k * step)
    assert off <= Decimal(2) ** -52 + k * step * Decimal(2) ** -51


def test_uniform_numbers_have_twice_the_bits_of_a_double(monkeypatch):
    def rare(_, *shape):  # once in 2^53, the first 53 bits are zero, and the next decide
        drawn = torch.zeros(shape, dtype=torch.float64)
        drawn[1] = torch.linspace(0.1, 0.9, shape[1], dtype=torch.float64)
        return drawn

    monkeypatch.setattr(Stream, "uniform", rare)
    first = int(poisson(10**7, 1e-5, Stream(KEY))[0])
    assert first == int(math.log(0.1 * 2.0**-53) / math.log1p(-1e-5))


@pytest.mark.parametrize("uniform", [0.0, 1.0, 2.0**-106])
@pytest.mark.parametrize("rate", [1e-300, 1e-12, 0.5, 1.0])
def test_the_ends_of_the_unit_interval_do_no_harm(monkeypatch, uniform, rate):
    def constant(_, *shape):
        return torch.full(shape, uniform, dtype=torch.float64)

    monkeypatch.setattr(Stream, "uniform", constant)
    drawn = poisson(1000, rate, Stream(KEY))
    assert drawn.dtype == torch.int64
    assert len(drawn) == len(drawn.unique())
    assert all(0 <= place < 1000 for place in drawn.tolist())
    if rate == 1.0 or uniform == 1.0:
        assert drawn.tolist() == list(range(1000))


def test_nothing_is_drawn_of_nothing(stream):
    assert poisson(0, 0.5, stream).tolist() == []


def test_a_draw_costs_what_is_drawn(monkeypatch, stream):
    """A thousand of ten thousand million: with a number each, this would take minutes and all memory."""
    asked, uniform = [], Stream.uniform
    monkeypatch.setattr(
        Stream, "uniform", lambda *shape: asked.append(math.prod(shape[1:])) or uniform(*shape)
    )
    drawn = poisson(10**10, 1e-7, stream)
    assert sum(asked) < 10_000
    assert binomtest(len(drawn), 10**10, 1e-7).pvalue > 1e-3
    assert int(drawn.max()) > 2**32


def test_units_of_one_record_hold_no_list_of_them(stream):
    units = Units(10**12).and_more(5)
    assert len(units) == 10**12 + 5
    chosen = torch.tensor([3, 10**12 + 4])
    assert torch.equal(units.pick(chosen, stream), chosen)


def test_more_units_are_numbered_after_all_records(stream):
    units = Units(8, GROUPS).and_more(2)
    assert len(units) == 6
    assert units.pick(torch.tensor([4, 5]), stream).tolist() == [8, 9]


def test_a_state_that_meant_other_draws_is_refused(make_plan_of):
    sampler = PoissonSampler(make_plan_of(), Units(50), KEY)
    old = {"generator": torch.Generator().get_state(), "drawn_by": "gaps"}  # of a Mersenne Twister
    with pytest.raises(DptrainError, match=r"drawn by another version of dptrain, .* start a new run"):
        sampler.load_state_dict(old)
