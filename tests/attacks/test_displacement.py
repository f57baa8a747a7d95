"""Reconstruction from weights against models without the candidates: sees what is there, and only that."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from dptrain.attacks.displacement import Directions, Rows, Trained
from dptrain.attacks.instance_reconstruction import WeightsReconstruction
from dptrain.contracts import Attempt, Guesses, Records, Release, Shadow, Slots, Targets
from dptrain.evaluation.games.reconstruction.game import score_reconstruction
from dptrain.evidence.verdict import ABOVE, BROKEN, BY_CHANCE, LEAKS, kind
from dptrain.models.frozen import FrozenFeatures

pytestmark = pytest.mark.run

WIDTH, KNOWN, SLOTS, CANDIDATES, PROBES = 40, 60, 8, 5, 16


class Promise:
    """A guarantee of which only the bound matters."""

    def __init__(self, bound):
        self.bound = bound

    def epsilon(self):
        return 1.0

    def reconstruction_bound(self, _):
        return self.bound


def head():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Linear(WIDTH, 3)


def minimum(records, ridge=1.0, noise=0.0, rng=None):
    """Weights of the ridge logistic regression on these records, to rounding, with noise."""
    model = head().double()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(model(records.inputs.double()), records.labels, reduction="sum")
        found = found + ridge / 2 * sum(each.square().sum() for each in model.parameters())
        found.backward()
        return found

    optimizer.step(loss)
    return {
        name: value.detach().float() + noise * torch.randn(value.shape, generator=rng)
        for name, value in model.state_dict().items()
    }


def drawn(count, rng):
    labels = torch.randint(3, (count,), generator=rng)
    return Records(torch.randn(count, WIDTH, generator=rng) + nn.functional.one_hot(labels, WIDTH), labels)


class World:
    """Known records, probes and slots; one candidate of each slot, and half of the probes, are trained on."""

    def __init__(self, rng):
        self.rng = rng
        self.known, self.probes = drawn(KNOWN, rng), drawn(PROBES, rng)
        flat = drawn(SLOTS * CANDIDATES, rng)
        self.slots = Slots(
            inputs=flat.inputs.view(SLOTS, CANDIDATES, WIDTH), labels=flat.labels.view(SLOTS, CANDIDATES)
        )
        self.truth = torch.randint(CANDIDATES, (SLOTS,), generator=rng)
        self.planted = flat.take(torch.arange(SLOTS) * CANDIDATES + self.truth)
        self.halves = torch.rand(PROBES, generator=rng) < 0.5
        self.asked = []

    def release(self, weights):
        return Release(weights=weights, architecture=head)

    def train(self, count, *, private):
        self.asked.append((count, private))
        made = []
        for number in range(count):
            members = self.halves if number % 2 == 0 else ~self.halves
            weights = minimum(self.known.and_more(self.probes.take(members.nonzero().flatten())))
            made.append(Shadow(release=self.release(weights), members=members))
        return tuple(made)

    def target(self, noise=0.0):
        half = torch.rand(PROBES, generator=self.rng) < 0.5
        trained = self.known.and_more(self.planted).and_more(self.probes.take(half.nonzero().flatten()))
        return self.release(minimum(trained, noise=noise, rng=self.rng))

    def targets(self, probes=True):
        return Targets(
            classes=("a", "b", "c"), shape=(WIDTH,), bounds=(-5.0, 5.0), mean=(0.0,),
            background=drawn(30, self.rng), slots=self.slots,
            shadows=SimpleNamespace(
                train=self.train, records=self.known, at_once=True,
                probes=self.probes if probes else self.probes.take(torch.arange(0)),
            ),
        )  # fmt: skip


def judged(guesses, truth, bound=0.3):
    attempt = Attempt(
        attack="weights", interface="", found=Guesses(guesses=guesses), control=None, baseline=()
    )
    return score_reconstruction(attempt, truth, CANDIDATES, Promise(bound), confidence=0.95)


def played(noise, worlds=4, **changes):
    """Guesses and truths of several releases."""
    guesses, truths = [], []
    for seed in range(worlds):
        world = World(torch.Generator().manual_seed(seed))
        attack = WeightsReconstruction(shadows=2, **changes)
        found = attack.run(world.target(noise), world.targets(), torch.Generator().manual_seed(0))
        assert world.asked == [(2, False)]
        guesses.append(found.guesses)
        truths.append(world.truth)
    return torch.cat(guesses), torch.cat(truths)


def test_the_minimum_of_a_linear_head_gives_planted_records_away_and_is_called_broken():
    """As a mechanism that forgets its noise would be: under any guarantee this bound is exceeded."""
    guesses, truth = played(noise=0.0, worlds=8)
    assert judged(guesses, truth).verdict == BROKEN


def test_whoever_knows_every_other_record_names_the_one_that_is_missing():
    """The informed adversary of Balle et al. 2022, section 3: one unknown record, nothing left to chance."""
    for seed in range(6):
        world = World(torch.Generator().manual_seed(100 + seed))
        world.probes, world.halves = world.probes.take(torch.arange(0)), torch.zeros(0, dtype=torch.bool)
        world.slots = Slots(inputs=world.slots.inputs[:1], labels=world.slots.labels[:1])
        weights = minimum(world.known.and_more(world.planted.take(torch.arange(1))))
        attack = WeightsReconstruction(shadows=1)
        found = attack.run(
            world.release(weights), world.targets(probes=False), torch.Generator().manual_seed(0)
        )
        assert int(found.guesses) == int(world.truth[0])


def test_it_beats_the_reference_model_on_other_records():
    guesses, truth = played(noise=0.0)
    crude, _ = played_by_reference()
    assert int((guesses == truth).sum()) > int((crude == truth).sum()) + 4


def played_by_reference():
    guesses, truths = [], []
    for seed in range(4):
        world = World(torch.Generator().manual_seed(seed))
        attack = WeightsReconstruction(reference_steps=30)
        found = attack.run(world.target(), world.targets(), torch.Generator().manual_seed(0))
        assert not world.asked
        guesses.append(found.guesses)
        truths.append(world.truth)
    return torch.cat(guesses), torch.cat(truths)


def test_without_probes_shadows_are_references_all_the_same():
    world = World(torch.Generator().manual_seed(9))
    world.probes, world.halves = world.probes.take(torch.arange(0)), torch.zeros(0, dtype=torch.bool)
    attack = WeightsReconstruction(shadows=1)
    weights = minimum(world.known.and_more(world.planted))
    found = attack.run(world.release(weights), world.targets(probes=False), torch.Generator().manual_seed(0))
    assert int((found.guesses == world.truth).sum()) >= 5


def test_a_release_that_tells_nothing_seldom_raises_an_alarm():
    """Displacements of noise, in whatever metric: the candidates are exchangeable, and so is the truth."""
    rng, alarms, broken, trials = torch.Generator().manual_seed(1), 0, 0, 400
    known = torch.randn(30, 40, generator=rng)
    for _ in range(trials):
        candidates = torch.randn(24 * CANDIDATES, 40, generator=rng)
        displacement = torch.randn(1, 40, generator=rng)
        scores = Directions.of(known, displacement).scores(
            Rows.of(iter([candidates]), known, displacement), 0.1
        )
        truth = torch.randint(CANDIDATES, (24,), generator=rng)
        line = judged(scores.view(24, CANDIDATES).argmax(1), truth, bound=0.25)
        alarms += kind(line.verdict) in (LEAKS, ABOVE, BROKEN)
        broken += line.verdict == BROKEN
    assert binomtest(alarms, trials, 0.05, alternative="greater").pvalue > 1e-3
    assert binomtest(broken, trials, BY_CHANCE, alternative="greater").pvalue > 1e-3


def test_what_known_records_do_is_discounted():
    """Random multiples of many known gradients hide a record's own, but in the metric that discounts them."""
    rng, right = torch.Generator().manual_seed(3), {}
    for ridge in (0.001, 1e6):
        right[ridge] = 0
    for _ in range(40):
        known = torch.randn(50, 80, generator=rng) * torch.linspace(0.1, 3, 80)
        candidates = torch.randn(CANDIDATES, 80, generator=rng) * torch.linspace(0.1, 3, 80)
        displacement = -(torch.randn(50, generator=rng) @ known + candidates[2])[None]
        directions = Directions.of(known, displacement)
        rows = Rows.of(iter(candidates.split(2)), known, displacement)
        for ridge in right:
            right[ridge] += int(directions.scores(rows, ridge)[:, 0].argmax() == 2)
    assert right[0.001] >= 36
    assert right[1e6] < 30


def test_scores_are_those_of_the_metric_written_out(rng):
    known, candidates = torch.randn(6, 9, generator=rng), torch.randn(4, 9, generator=rng)
    displacements = torch.randn(2, 9, generator=rng)
    directions = Directions.of(known, displacements)
    found = directions.scores(Rows.of(iter([candidates]), known, displacements), 0.3)
    fisher = (known.T @ known).double()
    metric = torch.linalg.inv(fisher + 0.3 * fisher.diagonal().mean() * torch.eye(9).double())
    rows = candidates.double()
    along = -(rows @ metric @ displacements.double().T)
    expected = along / (rows @ metric * rows).sum(1).sqrt()[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    bare = Directions.of(known[:0], displacements)
    nothing = bare.scores(Rows.of(iter([candidates]), known[:0], displacements), 0.3)
    direct = -(candidates @ displacements.T) / candidates.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        nothing / nothing.norm(), (direct / direct.norm()).double(), rtol=1e-4, atol=1e-5
    )


class Branching(nn.Module):
    """It looks at each record, so that they cannot be put through it as one."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))

    def forward(self, inputs):
        return self.head(torch.stack([row if float(row.sum()) > 0 else 2 * row for row in inputs]))


class Recurrent(nn.Module):
    """Of layers that torch.func vectorises by turns only."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs)[0][:, -1])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)), (3, 4)),
        (
            lambda: FrozenFeatures(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh()), nn.Linear(6, 2)),
            (3, 4),
        ),
        (Recurrent, (3, 4)),
        (Branching, (3, 4)),
    ],
)
def test_gradients_are_those_of_each_record_alone(make, shape, rng):
    torch.manual_seed(0)
    model = make().eval()
    release = Release(weights=model.state_dict(), architecture=lambda: make())
    inputs, labels = torch.randn(5, *shape, generator=rng), torch.tensor([0, 1, 1, 0, 1])
    trained = Trained(release, dict(model.state_dict()), inputs)
    found = torch.cat(list(trained.gradients(Records(inputs, labels), at_once=2)))
    parameters = [each for each in model.parameters() if each.requires_grad]
    assert found.shape == (5, trained.size)
    for row, one, label in zip(found, inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(one[None]), label[None])
        alone = torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-6)
    assert torch.equal(
        trained.flat(dict(model.state_dict())), torch.cat([each.detach().flatten() for each in parameters])
    )


def test_what_is_frozen_is_computed_once_for_all_records(rng):
    seen = []
    features = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    features.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    model = FrozenFeatures(features, nn.Linear(6, 2))
    trained = Trained(
        Release(weights=model.state_dict(), architecture=partial(lambda it: it, model)),
        dict(model.state_dict()),
        torch.randn(5, 12, generator=rng),
    )
    assert trained.part is model.head
    seen.clear()
    list(trained.gradients(Records(torch.randn(5, 12, generator=rng), torch.zeros(5).long()), at_once=3))
    assert seen == [3, 2]
