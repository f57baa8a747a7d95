"""The reconstruction attack against trainings of which the truth is known."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from dptrain.attacks.instance_reconstruction import (
    SlotLikelihoods,
    TranscriptReconstruction,
    WeightsReconstruction,
    effective_slots,
)
from dptrain.contracts import Attempt, Budget, Guesses, Slots, Splits, Streams, Targets, seed_key
from dptrain.data.digits import Digits
from dptrain.evaluation.games.reconstruction.game import plant, score_reconstruction
from dptrain.evidence.verdict import BROKEN
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy.noisy import NoisySum

pytestmark = pytest.mark.run

SLOTS, CANDIDATES, STEPS = 4, 5, 3


@pytest.fixture(scope="module")
def digits():
    """Few enough digits that every record counts."""
    whole = Digits(mean=(0.5,), std=(0.5,)).load(torch.Generator().manual_seed(0))

    def few(records, count):
        return records.take(torch.arange(count))

    return replace(
        whole, train=few(whole.train, 20), holdout=few(whole.holdout, 120), test=few(whole.test, 20)
    )


def small_mlp():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))


def public(planted, planting):
    return Targets.of(
        planted,
        slots=planting.slots,
    )


def play(splits: Splits, mechanism, budget, context, seed, attack=None, slots=SLOTS):
    """Plant, train with the attack looking on, and let it guess: guesses, truth, guarantee."""
    attack = attack or TranscriptReconstruction(overlap_every=1, simulations=200)
    planted, planting = plant(
        splits,
        slots=slots,
        candidates=CANDIDATES,
        key=seed_key(torch.Generator().manual_seed(seed)),
    )
    targets = public(planted, planting)
    observers = (attack.watch(targets),) if hasattr(attack, "watch") else ()
    context = replace(context, observers=observers, planted=planting.positions)
    release, guarantee = mechanism.fit(small_mlp(), planted, budget, context)
    release = replace(release, transcript=observers[0] if observers else None)
    guesses = attack.run(release, targets, torch.Generator().manual_seed(seed))
    return guesses, planting.truth, guarantee


def full_batch(settings_of, slots=SLOTS, steps=STEPS):
    return settings_of(
        rates={"expected_batch_size": 20 + slots, "sample_rate": 1.0, "steps": steps},
        optimizer=partial(torch.optim.SGD, lr=0.2),
    )


def test_a_transcript_without_noise_gives_every_record_away(digits, settings_of, context_of, budget):
    settings = settings_of(optimizer=partial(torch.optim.SGD, lr=0.2), rates={"steps": 30})
    guesses, truth, _ = play(digits, NonPrivate(settings=settings), budget, context_of(), seed=1, slots=8)
    assert torch.equal(guesses.guesses, truth)


@pytest.fixture
def trainings(digits, settings_of, context_of):
    """Sixty trainings of four slots each, at the noise of mu = 1.5: guesses, truths, guarantee."""

    def run(count=60):
        budget = Budget(epsilon=None, delta=1e-5, noise_multiplier=STEPS**0.5 / 1.5)
        mechanism = DPSGD(settings=full_batch(settings_of), audit_sensitivity=False)  # which takes longer
        guesses, truths, guarantee = [], [], None
        for seed in range(count):
            context = context_of(streams=Streams(seed=seed, deterministic=True))
            found, truth, guarantee = play(digits, mechanism, budget, context, seed)
            guesses.append(found)
            truths.append(truth)
        return guesses, torch.stack(truths), guarantee

    return run


def test_success_lies_between_blind_guessing_and_the_bound(trainings):
    guesses, truths, guarantee = trainings()
    bound = guarantee.reconstruction_bound(1 / CANDIDATES)
    assert bound == pytest.approx(norm.cdf(norm.ppf(1 / CANDIDATES) + 1.5), abs=0.003)
    right = torch.stack([found.guesses for found in guesses]) == truths
    count = right.numel()
    assert count == 240
    assert binomtest(int(right.sum()), count, bound, alternative="greater").pvalue > 0.01
    assert binomtest(int(right.sum()), count, 1 / CANDIDATES, alternative="greater").pvalue < 1e-6


def test_a_quarter_of_the_promised_noise_is_called_broken(trainings, monkeypatch):
    """The guarantee states the plan; the mechanism adds less noise than that; the judge must notice."""
    original = NoisySum.__init__

    def weaker(self, optimizer, plan, clipper, generator):
        original(self, optimizer, plan, clipper, generator)
        self.noise_multiplier /= 4

    monkeypatch.setattr(NoisySum, "__init__", weaker)
    guesses, truths, guarantee = trainings(20)
    attempt = Attempt(
        attack="transcript",
        interface="",
        found=Guesses(guesses=torch.cat([found.guesses for found in guesses])),
        control=None,
        baseline=(),
    )
    found = score_reconstruction(attempt, truths.flatten(), CANDIDATES, guarantee, confidence=0.95)
    assert found.verdict == BROKEN


def test_the_weights_alone_betray_what_was_learnt_by_heart(digits, settings_of, context_of, budget):
    settings = settings_of(
        rates={"expected_batch_size": 28, "sample_rate": 1.0, "steps": 300},
        optimizer=partial(torch.optim.Adam, lr=0.02),
    )
    right = 0
    for seed in range(10):
        guesses, truth, _ = play(
            digits,
            NonPrivate(settings=settings),
            budget,
            context_of(),
            seed=seed,
            slots=8,
            attack=WeightsReconstruction(),
        )
        right += int((guesses.guesses == truth).sum())
    assert binomtest(right, 80, 1 / CANDIDATES, alternative="greater").pvalue < 1e-3


def overlaps_of(gradients, strength):
    """Overlaps of slots whose candidates have these gradients: (slots, candidates, parameters)."""
    rows = gradients.flatten(0, 1).double() * strength
    return rows @ rows.T


def test_orthogonal_slots_are_worth_all_of_them(rng):
    gradients = torch.eye(40).view(8, 5, 40)
    worth = effective_slots(overlaps_of(gradients, 1.5), 8, 4000, rng)
    assert worth == pytest.approx(8, rel=0.15)


def test_slots_with_identical_gradients_are_worth_about_one(rng):
    """Where all slots ask the same question of the same noise, they are right or wrong together."""
    one = torch.tensor([[0.0], [1.0]])  # a coin that is seen along one direction
    worth = [
        effective_slots(overlaps_of(one.expand(slots, 2, 1), 1.5), slots, 4000, rng) for slots in (8, 64)
    ]
    assert all(1.0 <= each < 4.5 for each in worth)
    assert worth[1] < 1.2 * worth[0]  # more of them add nothing


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_scores_are_the_log_likelihood_ratio(rng, rate):
    """Against densities of the mixture, computed with scipy."""
    gradients = 0.3 * torch.randn(1, 3, 6, generator=rng)
    view = torch.randn(6, generator=rng)
    slots = public_slots(1, 3)

    class Step:
        step, sample_rate, noise_std = 1, rate, 0.8

        def view(self, _):
            return view

        def contribution(self, inputs, labels):  # noqa: ARG002
            return gradients.flatten(0, 1)

    seen = SlotLikelihoods(slots, gradient_elements=1000, overlap_every=1)
    seen.observe(Step())
    silent = norm.pdf(view.double().numpy(), scale=0.8).prod()
    for candidate in range(3):
        present = norm.pdf((view - gradients[0, candidate]).double().numpy(), scale=0.8).prod()
        expected = math.log((1 - rate) + rate * present / silent)
        assert seen.scores[0, candidate].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def public_slots(slots, candidates):
    return Slots(
        inputs=torch.zeros(slots, candidates, 1, 8, 8),
        labels=torch.zeros(slots, candidates, dtype=torch.int64),
    )


def test_memory_bounded_chunks_change_no_score(rng):
    gradients = {slot: torch.randn(3, 6, generator=rng) for slot in range(4)}
    view = torch.randn(6, generator=rng)
    slots = public_slots(4, 3)
    slots.inputs[:] = torch.arange(4.0).view(4, 1, 1, 1, 1)

    class Step:
        step, sample_rate, noise_std = 1, 0.5, 1.0

        def view(self, slot):
            return view + gradients[slot][0]

        def contribution(self, inputs, labels):  # noqa: ARG002
            return torch.cat([gradients[int(slot)] for slot in inputs[::3, 0, 0, 0]])

    found = []
    for elements in (1000, 36, 1):  # all slots at once, two, one
        found.append(SlotLikelihoods(slots, gradient_elements=elements, overlap_every=1))
        found[-1].observe(Step())
    for other in found[1:]:
        torch.testing.assert_close(found[0].scores, other.scores)
        torch.testing.assert_close(found[0].overlaps, other.overlaps)


def test_what_was_seen_survives_a_checkpoint():
    slots = public_slots(2, 3)
    first = SlotLikelihoods(slots, gradient_elements=10, overlap_every=1)
    first.scores += 2.5
    first.overlaps += 0.5
    second = SlotLikelihoods(slots, gradient_elements=10, overlap_every=1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.scores, first.scores)
    assert torch.equal(second.overlaps, first.overlaps)
