"""Correlated noise: its covariance, its cost, who takes part when, and that nothing is noised twice."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from dptrain.contracts import Budget, ConfigError
from dptrain.privacy import accountant
from dptrain.privacy.banded import BandedPlan, make_banded_plan
from dptrain.privacy.gaussian import gaussian_delta
from dptrain.privacy.noise.banded import BandedNoise
from dptrain.privacy.noise.gaussian import grid_step
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.noise.strategies import bands_shipped, mean_squared_error, strategy
from dptrain.privacy.plan import Rates
from dptrain.privacy.preconditioned import make_preconditioned_plan
from dptrain.privacy.sampling import CyclicSampler, ShuffleSampler, Units, make_sampler
from dptrain.privacy.written import plan_from_json, plan_to_json

KEY = bytes(range(32))


def plan_of(**changes) -> BandedPlan:
    bands, steps = changes.pop("bands", 4), changes.pop("steps", 64)
    values = {
        "units": 1000, "turn_rate": 0.4, "groups": bands, "steps": steps, "expected_batch_size": 100,
        "max_grad_norm": 1.0, "noise_multiplier": 1.0, "strategy": strategy(bands, steps), "best_for": 64,
    }  # fmt: skip
    return BandedPlan(**{**values, **changes})


def toeplitz(column, steps) -> np.ndarray:
    return sum(np.diag(np.full(steps - lag, each), -lag) for lag, each in enumerate(column[:steps]))


# ---------------------------------------------------------------------- strategies


@pytest.mark.parametrize(("bands", "steps"), [(1, 9), (4, 40), (16, 100), (20, 60)])
def test_the_error_of_a_strategy_is_that_of_dense_matrices(bands, steps):
    column = strategy(bands, steps)
    assert len(column) == bands
    assert math.hypot(*column) == pytest.approx(1.0, abs=1e-15)
    left = np.tril(np.ones((steps, steps))) @ np.linalg.inv(toeplitz(column, steps))
    assert mean_squared_error(column, steps) == pytest.approx((left**2).sum() / steps, rel=1e-10)


@pytest.mark.parametrize(("bands", "steps"), [(2, 64), (8, 512), (32, 2048)])
def test_what_is_shipped_cannot_be_bettered_nearby(bands, steps):
    column, rng = np.asarray(strategy(bands, steps)), np.random.default_rng(1)
    least = mean_squared_error(column, steps)
    for size in (1e-2, 1e-3):
        for _ in range(20):
            other = column + size * rng.normal(size=bands) * column
            assert mean_squared_error(other / np.linalg.norm(other), steps) > least * (1 - 1e-9)


def test_more_bands_have_less_error():
    errors = [mean_squared_error(strategy(bands, 1200), 1200) for bands in bands_shipped(128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(600.5)


# ---------------------------------------------------------------------- what it costs


def deltas_by_simulation(plan, epsilon, samples):
    """Delta of the encoded sums themselves, removal and addition: no word of turns, columns or composition.

    One unit of the first group adds 1 at each step it takes part in; whether it does is a coin at each of its
    turns. The likelihood ratio is that of all patterns of coins at once.
    """
    rng, turns = np.random.default_rng(3), range(0, plan.steps, plan.groups)
    matrix = toeplitz(plan.strategy, plan.steps)
    patterns = np.array(list(itertools.product([0.0, 1.0], repeat=len(turns))))
    odds = np.prod(np.where(patterns == 1, plan.turn_rate, 1 - plan.turn_rate), axis=1)
    used = np.zeros((len(patterns), plan.steps))
    used[:, list(turns)] = patterns
    means = used @ matrix.T
    noise = plan.noise_multiplier * rng.normal(size=(samples, plan.steps))

    def log_ratio(seen):
        exponents = (seen @ means.T - (means**2).sum(1) / 2) / plan.noise_multiplier**2
        return np.log(np.exp(exponents) @ odds)

    with_unit = log_ratio(noise + means[rng.choice(len(odds), size=samples, p=odds)])
    without = -log_ratio(noise)
    return [
        (
            np.maximum(0.0, 1 - np.exp(epsilon - loss)).mean(),
            np.maximum(0.0, 1 - np.exp(epsilon - loss)).std(),
        )
        for loss in (with_unit, without)
    ]


@pytest.mark.parametrize(("bands", "rate"), [(2, 0.5), (3, 1.0), (1, 0.3)])
def test_the_loss_is_that_of_the_encoded_sums(bands, rate):
    plan = plan_of(bands=bands, steps=6, turn_rate=rate, noise_multiplier=1.2)
    samples = 200_000
    for epsilon in (0.3, 2.0):
        found = deltas_by_simulation(plan, epsilon, samples)
        most = max(found)
        allowed = plan.loss().get_delta_for_epsilon(epsilon)
        assert allowed == pytest.approx(most[0], abs=4 * most[1] / math.sqrt(samples) + 1e-4)


def test_participations_that_meet_would_cost_more():
    """The same simulation sees what the plan refuses to be: more bands than groups."""
    plan = plan_of(bands=3, steps=6, turn_rate=1.0, noise_multiplier=1.5)
    with pytest.raises(AssertionError, match="meet"):
        replace(plan, groups=2)
    broken = object.__new__(BandedPlan)
    for name, value in {**vars(plan), "groups": 2}.items():
        object.__setattr__(broken, name, value)
    (removed, _), _ = deltas_by_simulation(broken, 1.0, 100_000)
    assert removed > 1.2 * broken.loss().get_delta_for_epsilon(1.0)


def test_unsampled_participations_are_one_gaussian_mechanism():
    plan = plan_of(bands=8, groups=10, steps=95, turn_rate=1.0, noise_multiplier=4.0)
    for steps, times in ((10, 1), (95, 10)):
        mu = math.sqrt(times) / 4.0
        for epsilon in (0.5, 2.0):
            found = plan.loss(steps).get_delta_for_epsilon(epsilon)
            assert found == pytest.approx(gaussian_delta(mu, epsilon), rel=0.01)
    assert plan.loss(0).get_epsilon_for_delta(1e-5) == 0.0


def test_epsilon_is_that_of_other_accountants():
    plan = plan_of(units=60000, bands=16, steps=1200, turn_rate=16 / 120, noise_multiplier=1.885)
    epsilon = plan.loss().get_epsilon_for_delta(1e-5)
    checks = accountant.cross_checks(plan, 1e-5)
    assert checks["opacus_prv"] == pytest.approx(epsilon, rel=0.01)
    assert epsilon < checks["opacus_rdp"] < 1.2 * epsilon
    assert plan.participations() == 75


def test_replacing_a_unit_costs_more():
    add, replaced = (plan_of(adjacency=each) for each in ("add_remove", "replace_one"))
    assert replaced.sensitivity == 2 * add.sensitivity
    assert replaced.loss().get_epsilon_for_delta(1e-5) > 1.5 * add.loss().get_epsilon_for_delta(1e-5)


# ---------------------------------------------------------------------- from a budget to a plan

BUDGET = Budget(epsilon=3.0, delta=1e-5)
RATES = Rates(expected_batch_size=500, epochs=10)


def made(rates=RATES, budget=BUDGET, bands=None, units=60000):
    return make_banded_plan(budget, rates, units, max_grad_norm=0.5, clipping="flat", bands=bands)


def test_sampled_and_unsampled_plans_reach_the_published_errors():
    amplified = made(bands=16)
    assert amplified.prefix_error / amplified.max_grad_norm == pytest.approx(12.8, abs=0.05)
    assert 2.99 < amplified.loss().get_epsilon_for_delta(1e-5) <= 3.0
    unsampled = made(replace(RATES, sampling="shuffle"))
    assert (unsampled.groups, unsampled.bands, unsampled.participations()) == (120, 120, 10)
    assert unsampled.prefix_error / unsampled.max_grad_norm == pytest.approx(16.3, abs=0.1)
    assert 2.99 < unsampled.loss().get_epsilon_for_delta(1e-5) <= 3.0


def test_bands_are_chosen_by_the_error():
    assert made().bands in (12, 16)
    assert made().sample_rate == pytest.approx(1 / 120)
    assert made(units=500).bands == 1  # all are in every batch: there are no turns to take


def test_one_band_is_dp_sgd():
    plan = plan_of(bands=1, groups=1, turn_rate=0.01, steps=100)
    other = plan.independent()
    assert (other.sample_rate, other.steps, other.noise_multiplier) == (0.01, 100, 1.0)
    assert plan.strategy == (1.0,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bands": 121}, r"mechanism\.bands=121 asks for a sample rate of 1\.01 .* at most 120"),
        (
            {"bands": 200, "rates": Rates(expected_batch_size=50, epochs=1)},
            r"bands=200 is more than there are strategies of",
        ),
        ({"bands": 9, "rates": Rates(expected_batch_size=500, steps=8)}, r"more than the 8 steps"),
        ({"bands": 121, "rates": replace(RATES, sampling="shuffle")}, r"more than the 120 batches between"),
        ({"budget": Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)}, r"mechanism\.bands=null with"),
        ({"budget": Budget(epsilon=3.0, delta=1e-3)}, r"privacy\.delta=0\.001 is not below"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(changes, said):
    with pytest.raises(ConfigError, match=said):
        made(**changes)


def test_the_plan_says_what_it_is_best_for():
    said = dict(plan_of().describe())
    assert "no momentum" in said["strategy"]
    assert "4 bands" in said["noise"]
    assert "16 of a unit" in said["participations"]
    assert "not sampled" in dict(plan_of(turn_rate=1.0).describe())["sampling"]


def test_a_plan_is_written_and_read_back():
    plan = plan_of()
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan


# ---------------------------------------------------------------------- who takes part when


def test_a_unit_takes_part_in_its_turns_only_at_its_rate():
    plan = plan_of(turn_rate=0.3, steps=400)
    sampler = make_sampler(plan, Units(1000), KEY)
    assert isinstance(sampler, CyclicSampler)
    seen = torch.zeros(400, 1000)
    for step in range(400):
        seen[step, sampler.draw()] = 1.0
    by_turn = seen.view(100, 4, 1000).sum(0)
    assert ((by_turn > 0).sum(0) == 1).all()
    sizes = torch.bincount(by_turn.argmax(0), minlength=4)
    assert chi2.sf(float(((sizes - 250.0) ** 2 / 250).sum()), 3) > 1e-4
    counts = by_turn.max(0).values
    assert chi2.sf(float(((counts - 30) ** 2 / 21).sum()), 1000) > 1e-4
    assert chi2.cdf(float(((counts - 30) ** 2 / 21).sum()), 1000) > 1e-4


def test_a_unit_more_changes_no_other_s_group():
    few, more = (CyclicSampler(plan_of(), Units(count), KEY) for count in (1000, 1001))
    for mine, theirs in zip(few.members, more.members, strict=True):
        assert torch.equal(mine, theirs[theirs < 1000])


def test_unsampled_groups_are_batches():
    plan = plan_of(bands=3, groups=5, turn_rate=1.0)
    sampler = CyclicSampler(plan, Units(200), KEY)
    first = [sampler.draw() for _ in range(5)]
    assert torch.equal(torch.cat(first).sort().values, torch.arange(200))
    assert all(torch.equal(sampler.draw(), each) for each in first)


def test_lost_steps_count_as_turns_and_nobody_changes_the_group():
    sampler = CyclicSampler(plan_of(turn_rate=1.0), Units(100), KEY)
    groups = [sampler.draw() for _ in range(4)]
    state = sampler.state_dict()
    sampler.renew(bytes(32), skipped=3)
    assert torch.equal(sampler.draw(), groups[3])
    again = CyclicSampler(plan_of(turn_rate=1.0), Units(100), bytes(32))
    again.load_state_dict(state)
    assert torch.equal(again.draw(), groups[0])


# ---------------------------------------------------------------------- the noise


def noises(plan, coordinates, steps):
    source = BandedNoise(KEY, strategy=plan.strategy)
    zero = [torch.zeros(coordinates, dtype=torch.float64)]
    return torch.stack([source.add(zero, plan.noise_std)[0] for _ in range(steps)]).numpy()


@pytest.mark.parametrize("bands", [1, 3, 8])
def test_noise_has_the_covariance_of_the_strategy(bands):
    plan, steps, many = plan_of(bands=bands, steps=24, noise_multiplier=1.7), 24, 4000
    w = noises(plan, many, steps)
    matrix = toeplitz(plan.strategy, steps)
    z = matrix @ w / plan.noise_std  # independent standard normals, but for the grid
    assert 1e-4 < chi2.cdf((z**2).sum(), z.size) < 1 - 1e-4
    off = (z @ z.T / math.sqrt(many))[np.triu_indices(steps, 1)]
    assert 1e-4 < chi2.cdf((off**2).sum(), len(off)) < 1 - 1e-4
    prefix = np.cumsum(w, axis=0)
    assert math.sqrt((prefix**2).mean()) == pytest.approx(plan.prefix_error, rel=0.02)
    if bands > 1:
        independent = plan.noise_std * math.sqrt((steps + 1) / 2)
        assert plan.prefix_error < 0.8 * independent


def test_what_is_released_is_on_the_grid_and_made_of_encoded_sums_with_the_same_noise():
    """Decoding is post-processing: encoded again, any sums have the same noise on them, up to the grid."""
    plan, rng = plan_of(bands=5, noise_multiplier=2.0), torch.Generator().manual_seed(1)
    sums = 30 * torch.randn(12, 500, generator=rng, dtype=torch.float64)
    source = BandedNoise(KEY, strategy=plan.strategy)
    released = torch.stack([source.add([each], plan.noise_std)[0] for each in sums])
    step = grid_step(plan.fresh_std)
    assert torch.equal(released, (released / step).round() * step)
    matrix = torch.from_numpy(toeplitz(plan.strategy, 12))
    drawn = NoiseSource(KEY)
    keys = [drawn._keys.next() for _ in range(12)]
    z = torch.stack([drawn.numbers(key, 500, block=0) for key in keys]) * plan.noise_std
    rest = matrix @ (released - sums) - z
    assert float(rest.abs().max()) <= plan.strategy[0] * step / 2 + 1e-9


def test_one_band_is_independent_noise():
    sums = [torch.arange(6, dtype=torch.float64).view(2, 3), torch.ones(4, dtype=torch.float64)]
    banded, plain = BandedNoise(KEY, strategy=(1.0,)), NoiseSource(KEY)
    for _ in range(3):
        for mine, theirs in zip(banded.add(sums, 0.7), plain.add(sums, 0.7), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.shape == theirs.shape


def test_it_goes_on_exactly_and_begins_anew_without_the_past():
    plan = plan_of(bands=4)
    source, sums = BandedNoise(KEY, strategy=plan.strategy), [torch.zeros(50, dtype=torch.float64)]
    for _ in range(5):
        source.add(sums, 1.0)
    state = source.state_dict()
    assert len(state["past"]) == 3
    went_on = [source.add(sums, 1.0)[0] for _ in range(3)]
    again = BandedNoise(bytes(32), strategy=plan.strategy)
    again.load_state_dict(state)
    assert all(torch.equal(again.add(sums, 1.0)[0], each) for each in went_on)
    again.renew(KEY, skipped=1)
    fresh = BandedNoise(KEY, strategy=plan.strategy)
    for _ in range(4):
        assert torch.equal(again.add(sums, 1.0)[0], fresh.add(sums, 1.0)[0])


def test_other_secrets_without_a_loss_follow_the_noise_before():
    """Every row has a z of its own, of the old key before and of the new one after; the past stays."""
    plan = plan_of(bands=4)
    source, zero = BandedNoise(KEY, strategy=plan.strategy), [torch.zeros(500, dtype=torch.float64)]
    w = [source.add(zero, plan.noise_std)[0] for _ in range(6)]
    source.renew(bytes(32), skipped=0)
    w += [source.add(zero, plan.noise_std)[0] for _ in range(6)]
    rows = torch.from_numpy(toeplitz(plan.strategy, 12)) @ torch.stack(w)
    old, new = NoiseSource(KEY), NoiseSource(bytes(32))
    keys = [(each, each._keys.next()) for each in [old] * 6 + [new] * 6]
    z = torch.stack([each.numbers(key, 500, block=0) for each, key in keys]) * plan.noise_std
    assert float((rows - z).abs().max()) <= plan.strategy[0] * grid_step(plan.fresh_std) / 2 + 1e-9


def test_other_secrets_change_nobody_s_pass_or_group(make_plan_of):
    """A unit takes part once in a pass, and in the turns of its group alone, whatever the secrets are."""
    sampler = ShuffleSampler(
        make_plan_of(units=60, expected_batch_size=7, sampling="shuffle"), Units(60), KEY
    )
    batches = [sampler.draw() for _ in range(4)]
    dealt = sampler.members
    sampler.renew(bytes(32), skipped=0)
    batches += [sampler.draw() for _ in range(sampler.batches - 4)]
    assert sorted(torch.cat(batches).tolist()) == list(range(60))
    sampler.draw()
    assert not all(map(torch.equal, dealt, sampler.members)), "the next pass is dealt by the old secret"
    turns = CyclicSampler(plan_of(turn_rate=1.0), Units(100), KEY)
    groups = [turns.draw() for _ in range(4)]
    turns.draw()
    turns.renew(bytes(32), skipped=0)
    assert all(torch.equal(turns.draw(), groups[turn % 4]) for turn in range(1, 9))


def test_a_seal_is_of_the_sum_and_of_what_past_noise_takes_off_it():
    source = BandedNoise(KEY, strategy=plan_of(bands=4).strategy)
    sums = torch.zeros(50, dtype=torch.float64)
    content = sums.numpy().data.cast("B")
    assert source.seal(content) == NoiseSource(KEY).seal(content)  # nothing is past
    source.add([sums], 1.0)
    tag, state = source.seal(content), source.state_dict()
    assert tag == source.seal(content)
    assert tag != source.seal((sums + 1).numpy().data.cast("B"))
    other = BandedNoise(KEY, strategy=plan_of(bands=4).strategy)
    other.load_state_dict({**state, "past": [state["past"][0] + 2.0**-30]})
    assert other.seal(content) != tag
    other.load_state_dict(state)
    assert other.seal(content) == tag


@pytest.mark.parametrize("adjacency", ["add_remove", "replace_one"])
@pytest.mark.parametrize("norm", [0.1, 1.0, 3.0])
def test_what_a_unit_moves_is_told_in_units_of_the_noise(norm, adjacency):
    """What a unit moves is in the units that the accountant knows, whatever gradients are clipped to."""
    moved = 2.0 if adjacency == "replace_one" else 1.0
    banded = plan_of(max_grad_norm=norm, adjacency=adjacency)
    assert banded.most * banded.noise_std / banded.noise_multiplier == pytest.approx(moved * norm)
    budget = Budget(epsilon=3.0, delta=1e-5, adjacency=adjacency)
    both = make_preconditioned_plan(
        budget, RATES, 1000, max_grad_norm=norm, clipping="flat", covariance_share=0.9, feature_norm=20.0
    )
    assert both.most == max(moved, both.covariance_mu * both.noise_multiplier)
    assert both.most > moved  # second moments have the smaller noise here
