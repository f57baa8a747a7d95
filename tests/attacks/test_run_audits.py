"""Audits that look on at a training: likelihoods that tell members, in parts as whole, and after a stop."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from dptrain.attacks.canary_audit import CanaryAudit
from dptrain.attacks.gradient_audit import GradientAudit
from dptrain.contracts import Canaries, Records, Release, Targets
from dptrain.evaluation.games.audit.scoring import auc

pytestmark = pytest.mark.run

WIDTH, COUNT = 400, 80


@dataclass
class Step:
    """A step whose gradients are the inputs themselves, on which each member was sampled by a coin."""

    step: int
    noise_std: float
    members: torch.Tensor
    gradients: torch.Tensor
    rng: torch.Generator
    sample_rate: float = 0.3
    sampling: str = "poisson"
    asked: list = field(default_factory=list)

    def __post_init__(self):
        sampled = self.members & (torch.rand(COUNT, generator=self.rng) < self.sample_rate)
        noise = self.noise_std * torch.randn(WIDTH, generator=self.rng)
        self.seen = self.gradients[sampled].sum(0) + noise

    def undecided(self, on):
        self.asked.append(on)
        return self.seen

    def contribution(self, inputs, labels):
        assert len(inputs) == len(labels)
        return inputs.flatten(1)

    def lengths(self, canaries):
        return torch.full((len(canaries),), 1.0)

    def alone(self):
        return 0.9


@pytest.fixture
def members(rng):
    return torch.rand(COUNT, generator=rng) < 0.5


@pytest.fixture
def targets(rng):
    directions = torch.nn.functional.normalize(torch.randn(COUNT, WIDTH, generator=rng), dim=1)
    probes = Records(directions.view(COUNT, 1, 20, 20), torch.zeros(COUNT, dtype=torch.int64))
    return Targets(
        classes=("a", "b"),
        shape=(1, 20, 20),
        bounds=(0.0, 1.0),
        mean=(0.5,),
        background=probes,
        probes=probes,
        canaries=Canaries(coordinates=torch.arange(COUNT), norm=5.0),
    )


def steps(count, noise_std, members, gradients, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [Step(number + 1, noise_std, members, gradients, rng) for number in range(count)]


def bets(attack, observer, targets):
    release = Release(architecture=torch.nn.Identity, weights={}, transcript=observer)
    return attack.run(release, targets, torch.Generator())


def canary_gradients():
    return torch.eye(WIDTH)[:COUNT]


@pytest.mark.parametrize("attack", [CanaryAudit(), GradientAudit(every=1)])
def test_members_stand_out_where_the_noise_is_small_and_not_where_it_is_large(attack, members, targets):
    on_canaries = isinstance(attack, CanaryAudit)
    gradients = canary_gradients() if on_canaries else targets.probes.inputs.flatten(1)
    areas = []
    for noise_std in (0.1, 50.0):
        observer = attack.watch(targets)
        for step in steps(40, noise_std, members, gradients):
            observer.observe(step)
            assert set(step.asked) == {"canaries" if on_canaries else "probes"}
        found = bets(attack, observer, targets)
        assert attack.game == ("audit_canaries" if on_canaries else "audit_records")
        areas.append(auc(found.scores, members))
    assert areas[0] > 0.95
    assert 0.25 < areas[1] < 0.75


def test_without_noise_each_coin_is_all_but_certain(members, targets):
    for attack, gradients in (
        (CanaryAudit(), canary_gradients()),
        (GradientAudit(every=1), targets.probes.inputs.flatten(1)),
    ):
        observer = attack.watch(targets)
        for step in steps(40, 0.0, members, gradients):
            observer.observe(step)
        assert auc(bets(attack, observer, targets).scores, members) == 1.0


def test_probes_whose_gradients_do_not_fit_together_score_the_same(members, targets):
    scores = []
    for elements in (50_000_000, 7 * WIDTH):
        attack = GradientAudit(every=2, gradient_elements=elements)
        observer = attack.watch(targets)
        for step in steps(6, 0.5, members, targets.probes.inputs.flatten(1)):
            observer.observe(step)
        scores.append(bets(attack, observer, targets).scores)
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)


def test_a_gradient_audit_looks_at_every_so_many_steps(members, targets):
    observer = GradientAudit(every=4).watch(targets)
    looked = [
        bool(step.asked)
        for step in steps(9, 0.5, members, targets.probes.inputs.flatten(1))
        if observer.observe(step) is None
    ]
    assert looked == [True, False, False, False, True, False, False, False, True]


def test_the_score_of_a_canary_is_its_log_likelihood_ratio(members, targets):
    (step,) = steps(1, 0.7, members, canary_gradients())
    observer = CanaryAudit().watch(targets)
    observer.observe(step)
    seen = step.seen[:COUNT].double()
    normal = torch.distributions.Normal(0.0, torch.tensor(0.7, dtype=torch.float64))
    present = 0.3 * normal.log_prob(seen - 1).exp() + 0.7 * normal.log_prob(seen).exp()
    torch.testing.assert_close(observer.scores, present.log() - normal.log_prob(seen), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attack", [CanaryAudit(), GradientAudit(every=1)])
def test_an_observer_goes_on_where_it_stopped(attack, members, targets):
    gradients = canary_gradients()
    through, before, after = (attack.watch(targets) for _ in range(3))
    taken = steps(8, 0.5, members, gradients)
    for step in taken:
        through.observe(step)
    for step in taken[:3]:
        before.observe(step)
    after.load_state_dict(before.state_dict())
    for step in taken[3:]:
        after.observe(step)
    whole, resumed = bets(attack, through, targets), bets(attack, after, targets)
    torch.testing.assert_close(whole.scores, resumed.scores)
    assert whole.noise == resumed.noise
    assert whole.longest == resumed.longest


def test_what_is_seen_of_noise_and_batches(members, targets):
    noisy, plain = CanaryAudit().watch(targets), CanaryAudit().watch(targets)
    for step in steps(50, 2.0, members, canary_gradients()):
        noisy.observe(step)
    for step in steps(50, 0.0, members, canary_gradients()):
        plain.observe(step)
    assert noisy.noise.coordinates == WIDTH - COUNT
    assert noisy.noise.each == pytest.approx(1.0, abs=0.05)
    assert noisy.noise.summed == pytest.approx(1.0, abs=0.3)
    assert noisy.sampling is None
    assert plain.noise is None
    assert plain.sampling.counts[~members].sum() == 0
    assert plain.sampling.counts[members].double().mean() == pytest.approx(15, abs=2)
