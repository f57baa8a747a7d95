"""Mechanisms broken on purpose, trained by the real loop: what the canary audit of a single run catches.

Each breach is made in the engine or the sampler, behind a guarantee that knows nothing of it.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from dptrain.attacks.canary_audit import CanaryAudit
from dptrain.contracts import Attempt, Budget, Canaries, Streams, Targets
from dptrain.evaluation.games.audit.canaries import CanaryAssignment
from dptrain.evaluation.games.audit.scoring import score_audit
from dptrain.evidence.verdict import BROKEN
from dptrain.mechanisms.dpsgd import DPSGD
from dptrain.mechanisms.non_private import NonPrivate
from dptrain.privacy import dpsgd, noisy
from dptrain.privacy.dpsgd import ENGINES
from dptrain.privacy.noise.source import NoiseSource
from dptrain.privacy.sampling import ShuffleSampler
from dptrain.training import fit

pytestmark = pytest.mark.run

STEPS, PROBES = 60, 30
RATES = {"steps": STEPS, "sample_rate": 0.1, "expected_batch_size": 20}


@pytest.fixture
def audit(splits, mlp, settings_of, context_of):
    """Train once, with canaries and probes, and the twin; the audit's line."""

    def run(canaries=200, *, engine="hooks", seed=7):
        rng = torch.Generator().manual_seed(1)
        parameters = sum(p.numel() for p in mlp.parameters())
        canary_assignment = CanaryAssignment(
            canaries=Canaries(coordinates=torch.randperm(parameters, generator=rng)[:canaries], norm=1.0),
            members=torch.arange(canaries) % 2 == 0,
        )
        probed = tuple(range(len(splits.train) - PROBES, len(splits.train)))
        settings = settings_of(rates=RATES)
        budget = Budget(epsilon=None, delta=1e-5, noise_multiplier=1.0)
        attack, bets = CanaryAudit(), []
        for mechanism, assigned in (
            (
                DPSGD(settings=settings, max_grad_norm=0.1, engine=engine, audit_sensitivity=False),
                canary_assignment,
            ),
            (NonPrivate(settings=settings), canary_assignment.scaled(1e-3)),
        ):
            targets = Targets.of(
                splits,
                canaries=assigned.canaries,
            )
            observer = attack.watch(targets)
            context = dataclasses.replace(
                context_of(streams=Streams(seed=seed, deterministic=True)),
                canaries=assigned.trained_on,
                probed=probed,
                observers=(observer,),
            )
            release, guarantee = mechanism.fit(copy.deepcopy(mlp), splits, budget, context)
            bets.append(attack.run(dataclasses.replace(release, transcript=observer), targets, rng))
            if mechanism.plan(splits, budget) is not None:
                proved = guarantee
        found, control = bets
        attempt = Attempt(attack="audit_canaries", interface="", found=found, control=control, baseline=())
        members = canary_assignment.members
        return score_audit(attempt, members, proved, on="canaries", rng=rng, confidence=0.95)

    return run


@pytest.mark.parametrize("engine", ENGINES)
def test_an_honest_mechanism_passes(audit, engine):
    line = audit(engine=engine)
    assert line.verdict != BROKEN, line.notes
    assert line.value.low < line.bound
    assert line.control.value == pytest.approx(line.detection_limit)
    assert line.details["longest_contribution"] <= 1.001
    assert line.details["noise_std"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("canaries", [2, 200])
def test_half_the_noise_is_caught_with_two_canaries(audit, monkeypatch, canaries):
    original = noisy.NoisySum.__init__

    def halved(self, optimizer, plan, clipper, generator):
        plan = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier / 2)
        original(self, optimizer, plan, clipper, generator)

    monkeypatch.setattr(noisy.NoisySum, "__init__", halved)
    line = audit(canaries)
    assert line.verdict == BROKEN
    assert "the noise is 0.5" in line.notes or "the noise is 0.49" in line.notes


def test_half_the_noise_is_seen_by_the_bets_alone_as_well(audit, monkeypatch):
    """Twice the canaries' worth of signal: with 200 of them, the AUC is far above an honest run's."""
    honest = audit().details["auc"]
    original = noisy.NoisySum.__init__

    def halved(self, optimizer, plan, clipper, generator):
        plan = dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier / 2)
        original(self, optimizer, plan, clipper, generator)

    monkeypatch.setattr(noisy.NoisySum, "__init__", halved)
    assert audit().details["auc"] > honest + 0.05


@pytest.mark.parametrize("canaries", [2, 200])
def test_a_repeated_seed_is_caught_with_two_canaries(audit, monkeypatch, canaries):
    original = noisy.NoisySum.release

    def repeated(self):
        self.source = NoiseSource(bytes(32))
        original(self)

    monkeypatch.setattr(noisy.NoisySum, "release", repeated)
    line = audit(canaries)
    assert line.verdict == BROKEN
    assert "repeats itself" in line.notes


@pytest.mark.parametrize(("canaries", "caught"), [(2, False), (20, True), (200, True)])
def test_shuffled_batches_accounted_as_poisson_are_caught_with_enough_canaries(
    audit, monkeypatch, canaries, caught
):
    def shuffled(plan, units, generator):
        batch = round(plan.sample_rate * len(units))
        plan = dataclasses.replace(plan, units=len(units), expected_batch_size=batch)
        return ShuffleSampler(plan, units, generator)

    monkeypatch.setattr(fit, "make_sampler", shuffled)
    line = audit(canaries)
    assert ("more even than Poisson" in line.notes) == caught
    assert (line.verdict == BROKEN) == caught


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_skipped_for_one_class_is_caught_by_one_probe_of_it(audit, monkeypatch, splits, engine):
    owner = dpsgd.DPSGDEngine
    original = owner.accumulate

    def skipping(self, inputs, labels, copies=1):
        holder = self.optimizer
        spared = dataclasses.replace(holder.clipper, max_grad_norm=1e6)
        total = original(self, inputs[labels != 1], labels[labels != 1], copies)
        kept, holder.clipper = holder.clipper, spared
        total = total + original(self, inputs[labels == 1], labels[labels == 1], copies)
        holder.clipper = kept
        return total

    monkeypatch.setattr(owner, "accumulate", skipping)
    splits.train.labels[-PROBES:][splits.train.labels[-PROBES:] == 1] = 0
    splits.train.labels[-1] = 1  # the only probe of the class
    line = audit(2, engine=engine, seed=10)  # in seven of eight trainings the probe comes to be the first
    assert line.verdict == BROKEN
    assert "than clipping allows" in line.notes or "what clipping allows" in line.notes
