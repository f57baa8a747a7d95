"""A training with correlated noise: it goes on exactly, and never shows past noise twice."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from dptrain.contracts import Access, Budget, ConfigError, Streams
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.privacy import dpsgd
from dptrain.privacy.banded import BandedPlan
from dptrain.privacy.noise.banded import BandedNoise
from dptrain.privacy.noisy import on_grid
from dptrain.privacy.sampling import CyclicSampler
from dptrain.training import checkpoint

pytestmark = pytest.mark.run

BUDGET = Budget(epsilon=None, delta=1e-3, noise_multiplier=1.0)


class Crash(Exception):
    pass


@pytest.fixture
def fit(models, splits, settings_of, context_of):
    """Train with correlated noise; the optimizer keeps no memory, so that weights tell the sums."""

    def run(folder=None, *, streams=None, bands=3, sampling="poisson", progress=None, **changes):
        settings = settings_of(
            optimizer=partial(torch.optim.SGD, lr=0.5),
            rates={"steps": 12, "expected_batch_size": 12, "sampling": sampling},
            **changes,
        )
        mechanism = DPSGD(settings=settings, noise="banded", bands=bands, audit_sensitivity=False)
        streams = streams or Streams(seed=3, deterministic=True)
        context = context_of(streams=streams, folder=folder, progress=progress)
        return mechanism.fit(models["mlp"](), splits, BUDGET, context)

    return run


def interrupted_at(step):
    def progress(*, done, **_):
        if done == step:
            raise Crash

    return progress


@pytest.fixture
def watched(monkeypatch):
    """Of each step that is taken: who takes part, and the noise that is added, in the order of the steps."""
    drawn, added = [], []
    draw, add = CyclicSampler.draw, BandedNoise.add

    def noting(self, sums, std):
        noisy = add(self, sums, std)
        added.append(torch.cat([(a - b).flatten() for a, b in zip(noisy, sums, strict=True)]))
        return noisy

    monkeypatch.setattr(CyclicSampler, "draw", lambda self: drawn.append(draw(self)) or drawn[-1])
    monkeypatch.setattr(BandedNoise, "add", noting)
    return drawn, added


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_it_trains_as_it_plans(fit, sampling, watched):
    release, guarantee = fit(sampling=sampling)
    drawn, added = watched
    assert isinstance(guarantee.plan, BandedPlan)
    assert guarantee.plan.groups == (3 if sampling == "poisson" else 5)
    assert len(drawn) == len(added) == 12
    assert guarantee.curve[-1] == (12, pytest.approx(guarantee.epsilon()))
    statement = guarantee.statement()
    assert dict(statement.plan)["noise"].startswith("correlated, 3 bands")
    assert statement.randomness.draws == 12 * 819
    assert {"opacus_rdp", "opacus_prv"} <= set(statement.cross_checks)
    assert all(torch.isfinite(each).all() for each in release.weights.values())


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(fit, folder, flat, seconds, sampling):
    whole, promised = fit(sampling=sampling)
    with pytest.raises(Crash):
        fit(folder, progress=interrupted_at(7), checkpoint_seconds=seconds, sampling=sampling)
    resumed, guarantee = fit(folder, checkpoint_seconds=seconds, sampling=sampling)
    assert torch.equal(flat(whole.weights), flat(resumed.weights))
    assert guarantee.lost_steps == 0
    assert guarantee.epsilon() == promised.epsilon()


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_steps_that_are_lost_are_followed_by_noise_without_a_past(
    fit, folder, watched, monkeypatch, sampling
):
    """From a checkpoint with a past: on both ways from it, no unit's part may be seen twice."""
    drawn, added = watched
    options = {"streams": Streams(seed=4), "sampling": sampling}
    with pytest.raises(Crash):
        fit(folder, progress=interrupted_at(4), **options)  # a checkpoint at each step: the last at the third
    state = checkpoint.load(folder)
    assert (state["step"], len(state["noise"]["past"])) == (3, 2)
    with pytest.raises(Crash):
        fit(folder, progress=interrupted_at(8), checkpoint_seconds=1e9, **options)
    state = checkpoint.load(folder)  # written before the fifth: from there on the secrets are others
    assert (state["step"], len(state["noise"]["past"])) == (4, 2)
    taken = [*drawn[:3], *drawn[4:9]]  # the fourth is repeated as it was
    assert torch.equal(drawn[3], drawn[4])
    assert torch.equal(added[3], added[4])
    drawn.clear(), added.clear()
    monkeypatch.setattr("dptrain.privacy.noisy.on_grid", lambda sums, step: on_grid(sums, step) + step)
    _, guarantee = fit(folder, checkpoint_seconds=1e9, **options)
    assert (guarantee.replayed_steps, guarantee.lost_steps) == (0, 4)
    assert checkpoint.paid(folder) == 12
    assert len(added) == 4
    anew = BandedNoise(bytes(32), strategy=guarantee.plan.strategy)
    anew.load_state_dict({**state["noise"], "past": []})
    first, second = anew._weights  # the first noise after the lost steps is fresh, the second knows it alone
    fresh = [added[0], added[1] + first * added[0], added[2] + first * added[1] + second * added[0]]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(float(torch.corrcoef(torch.stack([fresh[one], fresh[other]]))[0, 1])) < 4 / 819**0.5
    for past in state["noise"]["past"]:
        assert abs(float(torch.corrcoef(torch.stack([added[0], past]))[0, 1])) < 4 / 819**0.5
    _apart([*taken, *drawn[-4:]], guarantee.plan)


@pytest.mark.parametrize("sampling", ["poisson", "shuffle"])
def test_a_copy_goes_on_with_the_same_past_and_other_noise(fit, folder, watched, sampling):
    """The groups and their turns stay what they are, and so does past noise in noise to come."""
    drawn, added = watched
    options = {"streams": Streams(seed=4), "sampling": sampling, "checkpoint_seconds": 1e9}
    with pytest.raises(Crash):
        fit(folder, progress=interrupted_at(5), **options)
    begun = [each.clone() for each in added]
    twice = Path(shutil.copytree(folder, folder.with_name("copy")))
    z = []
    for place in (folder, twice):
        drawn.clear(), added.clear()
        _, guarantee = fit(place, **options)
        assert (guarantee.replayed_steps, guarantee.lost_steps) == (5, 0)
        assert all(map(torch.equal, begun, added))
        _apart(drawn, guarantee.plan)
        strategy = guarantee.plan.strategy
        back = range(len(strategy))
        z.append([sum(strategy[j] * added[step - j] for j in back) for step in range(5, 12)])
    for mine, theirs in zip(*z, strict=True):
        assert abs(float(torch.corrcoef(torch.stack([mine, theirs]))[0, 1])) < 4 / 819**0.5
        assert float(mine.std()) == pytest.approx(guarantee.plan.noise_std, rel=0.2)


def _apart(steps, plan):
    """Of all steps that were paid for, a unit's are so many apart, and at most as many as accounted for."""
    assert len(steps) == plan.steps
    seen = torch.zeros(plan.steps, plan.units, dtype=torch.bool)
    for step, units in enumerate(steps):
        seen[step, units] = True
    for unit in seen.T:
        times = unit.nonzero().squeeze(1)
        assert len(times) <= plan.participations()
        assert (times.diff() >= plan.groups).all()


def test_past_noise_of_another_machine_is_no_ground_to_go_on(fit, folder, monkeypatch):
    """The sum is the same, and what past noise takes off it is not: the same noise would tell them apart."""
    options = {"streams": Streams(seed=4), "checkpoint_seconds": 1e9}
    with pytest.raises(Crash):
        fit(folder, progress=interrupted_at(6), **options)
    carried = BandedNoise._carried

    def otherwise(self, device):
        found = carried(self, device)
        return None if found is None else found + 2.0**-40

    monkeypatch.setattr(BandedNoise, "_carried", otherwise)
    _, guarantee = fit(folder, **options)
    assert guarantee.lost_steps > 0


def test_physical_batches_and_engines_change_nothing(fit, flat):
    (one, _), (other, _) = fit(), fit(physical_batch_size=3)
    assert torch.allclose(flat(one.weights), flat(other.weights), rtol=0, atol=1e-5)


def test_nobody_looks_on(models, splits, settings_of, context_of):
    mechanism = DPSGD(settings=settings_of(), noise="banded", bands=2)
    assert Access.TRANSCRIPT not in mechanism.offers
    assert Access.TRANSCRIPT in DPSGD(settings=settings_of()).offers
    with pytest.raises(ConfigError, match="shows no steps to observers: its noise is correlated"):
        mechanism.fit(models["mlp"](), splits, BUDGET, context_of(observers=(object(),)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"noise": "pink"}, r"mechanism\.noise=pink is unknown; choose one of independent, banded"),
        ({"bands": 4}, r"mechanism\.bands=4 with mechanism\.noise=independent"),
        ({"noise": "banded", "bands": 0}, r"mechanism\.bands=0 .* 1 or more"),
    ],
)
def test_choices_that_are_none_are_refused(settings_of, arguments, said):
    with pytest.raises(ConfigError, match=said):
        DPSGD(settings=settings_of(), **arguments)


def test_an_audit_of_sensitivity_and_a_trial_work_as_ever(models, splits, settings_of, context_of):
    mechanism = DPSGD(settings=settings_of(), noise="banded", bands=2)
    _, guarantee = mechanism.fit(models["mlp"](), splits, BUDGET, context_of())
    assert guarantee.sensitivity.audit == "held"
    assert guarantee.sensitivity.ratio <= 1.0001
    plan = mechanism.plan(splits, BUDGET)
    mechanism.trial(models["mlp"](), splits, BUDGET, context_of(), plan=plan, batch=40, audit=True)


def test_the_engine_is_the_one_of_every_noise(fit, monkeypatch):
    calls = []
    update = dpsgd.DPSGDEngine.update
    monkeypatch.setattr(dpsgd.DPSGDEngine, "update", lambda self: calls.append(update(self)))
    fit()
    assert len(calls) == 12
