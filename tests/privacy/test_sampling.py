"""Batches are drawn exactly as they are accounted for."""

import pytest
import torch
from scipy.stats import binomtest, chisquare

from dptrain.privacy.sampling import PoissonSampler, ShuffleSampler, Units, make_sampler


def draws(sampler, steps, records):
    """Which step drew which record: (steps, records), 0 or 1."""
    taken = torch.zeros(steps, records)
    for step in range(steps):
        taken[step, sampler.draw()] = 1.0
    return taken


@pytest.mark.parametrize("rate", [0.003, 0.3, 0.97])
def test_poisson_draws_each_record_at_the_rate_of_the_plan(make_plan_of, rng, rate):
    taken = draws(PoissonSampler(make_plan_of(sample_rate=rate), Units(400), rng), 500, 400)
    assert binomtest(int(taken.sum()), taken.numel(), rate).pvalue > 1e-3
    # Nor does any single record depart from it more than the luckiest of 400 may.
    for record in taken.sum(0).long().tolist():
        assert binomtest(record, 500, rate).pvalue > 1e-6


def test_poisson_draws_records_independently(make_plan_of, rng):
    taken = draws(PoissonSampler(make_plan_of(sample_rate=0.3), Units(40), rng), 4000, 40)
    correlation = torch.corrcoef(taken.T) - torch.eye(40)
    assert correlation.abs().max() < 5 / 4000**0.5
    # Batches of a fixed size would force a mean of -1/39 upon the pairs.
    assert abs(float(correlation.sum()) / (40 * 39)) < 0.003


def test_poisson_draws_steps_independently(make_plan_of, rng):
    taken = draws(PoissonSampler(make_plan_of(sample_rate=0.3), Units(200), rng), 400, 200)
    together = int((taken[1:] * taken[:-1]).sum())
    assert binomtest(together, 399 * 200, 0.09).pvalue > 1e-3


def test_poisson_batches_vary_in_size_and_may_be_empty(make_plan_of, rng):
    sampler = PoissonSampler(make_plan_of(sample_rate=0.01), Units(100), rng)
    sizes = torch.tensor([len(sampler.draw()) for _ in range(1000)])
    assert binomtest(int((sizes == 0).sum()), 1000, 0.99**100).pvalue > 1e-3
    assert sizes.double().var() == pytest.approx(0.99, rel=0.15)


def test_a_rate_of_one_draws_everything(make_plan_of, rng):
    drawn = PoissonSampler(make_plan_of(sample_rate=1.0), Units(50), rng).draw()
    assert drawn.tolist() == list(range(50))


GROUPS = torch.tensor([7, 3, 7, 7, 12, 3, 9, 7])  # four patients of 4, 2, 1 and 1 records


def test_each_sampled_patient_contributes_exactly_one_record(make_plan_of, rng):
    units = Units(8, GROUPS)
    assert len(units) == 4
    sampler = PoissonSampler(make_plan_of(sample_rate=0.6), units, rng)
    patients = torch.zeros(4, dtype=torch.int64)
    for _ in range(1000):
        groups = GROUPS[sampler.draw()]
        assert len(groups) == len(groups.unique())
        patients += (groups[:, None] == GROUPS.unique()).sum(0)
    for count in patients.tolist():
        assert binomtest(count, 1000, 0.6).pvalue > 1e-4


def test_a_patients_records_take_turns_evenly(make_plan_of, rng):
    sampler = PoissonSampler(make_plan_of(sample_rate=1.0), Units(8, GROUPS), rng)
    taken = draws(sampler, 2000, 8).sum(0)
    assert chisquare(taken[GROUPS == 7].numpy()).pvalue > 1e-3
    assert taken[GROUPS == 9].item() == 2000


@pytest.mark.parametrize("groups", [None, torch.arange(103) // 3])
def test_shuffle_covers_every_unit_once_a_pass(make_plan_of, rng, groups):
    units = Units(103, groups)
    sampler = ShuffleSampler(make_plan_of(expected_batch_size=10, sampling="shuffle"), units, rng)
    unit_of_record = torch.arange(103) if groups is None else groups
    passes = []
    for _ in range(3):
        batches = [unit_of_record[sampler.draw()] for _ in range(-(-len(units) // 10))]
        assert all(len(batch) <= 10 for batch in batches)
        together = torch.cat(batches)
        assert sorted(together.tolist()) == list(range(len(units)))
        passes.append(together)
    assert not torch.equal(passes[0], passes[1])


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_state_goes_on_with_the_very_same_draws(make_plan_of, sampling):
    plan = make_plan_of(sampling=sampling, sample_rate=0.3, expected_batch_size=3)

    def sampler(seed):
        return make_sampler(plan, Units(8, GROUPS), torch.Generator().manual_seed(seed))

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


def test_the_plan_chooses_the_sampler(make_plan_of, rng):
    assert isinstance(make_sampler(make_plan_of(), Units(5), rng), PoissonSampler)
    assert isinstance(make_sampler(make_plan_of(sampling="shuffle"), Units(5), rng), ShuffleSampler)
