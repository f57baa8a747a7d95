"""Which of the candidates was trained on? Instance reconstruction with a prior.

Balle et al. 2022 ("Reconstructing Training Data with Informed Adversaries") and Hayes et al.
2023 ("Bounding Training Data Reconstruction in DP-SGD"): an adversary who knows every record but
one, and that the one is among N candidates, names it. Two adversaries: one sees every noisy
gradient, one the final weights only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dptrain.attacks.displacement import Directions, Rows, View
from dptrain.attacks.likelihood import sampled_at
from dptrain.attacks.reference import ByReference
from dptrain.contracts import (
    Access,
    Guesses,
    Observation,
    Part,
    Records,
    Release,
    Shadow,
    Slots,
    Targets,
)
from dptrain.contracts.ranges import Count, Whole

AT_ONCE = 128  # records whose gradients are made at once, at most
RIDGES = (0.01, 0.1, 1.0, 10.0, 1000.0)  # in mean squared gradients of known records


class SlotLikelihoods:
    """Adds up, step by step, how likely each candidate of each slot makes what was seen.

    A sampled candidate with clipped gradient g shifts the noise, of variance s^2, by g. Against
    "not sampled", view v has log-likelihood a = (<v, g> - |g|^2 / 2) / s^2; under Poisson
    sampling at rate q a step counts log(1 - q + q exp(a)). Memory does not grow with the steps.

    The slots share the noise, so guesses hang together where gradients overlap. To first order
    a slot's scores are Gaussian with covariance `overlaps`, the sum over steps of
    q^2 <g, g'> / s^2; it is measured on every `overlap_every`-th step.
    """

    def __init__(self, slots: Slots, *, gradient_elements: int, overlap_every: int) -> None:
        self.slots = slots
        self.gradient_elements = gradient_elements
        self.overlap_every = overlap_every
        size = slots.count * slots.candidates
        self.scores = torch.zeros(slots.count, slots.candidates, dtype=torch.float64)
        self.overlaps = torch.zeros(size, size, dtype=torch.float64)

    def observe(self, step: Observation) -> None:
        measure_overlaps = (step.step - 1) % self.overlap_every == 0
        sketches: list[Tensor] = []
        variance = step.noise_std**2
        for slots in self._chunks(step):
            rows = self._gradients(step, slots)  # (slots, candidates, parameters)
            if variance == 0.0:
                # Small beside any gradient, so that one candidate is all but certain.
                variance = 1e-6 * float(rows.square().sum(-1).mean()) + 1e-30
            for gradients, slot in zip(rows, slots.tolist(), strict=True):
                projected = (gradients @ step.view(slot)).double()
                exponent = (projected - gradients.square().sum(-1).double() / 2) / variance
                self.scores[slot] += sampled_at(exponent, step.sample_rate).cpu()
            if measure_overlaps:
                sketches.append(_sketch(rows.flatten(0, 1)))
        if measure_overlaps:
            sketch = torch.cat(sketches)
            weight = self.overlap_every * step.sample_rate**2 / variance
            self.overlaps += (sketch @ sketch.T).double().cpu() * weight

    def _chunks(self, step: Observation) -> tuple[Tensor, ...]:
        """The slot numbers, in parts whose gradients fit in memory together."""
        a_slot = step.view(0).numel() * self.slots.candidates
        return torch.arange(self.slots.count).split(max(1, self.gradient_elements // a_slot))

    def _gradients(self, step: Observation, slots: Tensor) -> Tensor:
        inputs, labels = self.slots.inputs[slots], self.slots.labels[slots]
        rows = step.contribution(inputs.flatten(0, 1), labels.flatten(0, 1))
        return rows.view(len(slots), self.slots.candidates, -1)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores, "overlaps": self.overlaps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores, self.overlaps = state["scores"], state["overlaps"]


@dataclass(frozen=True, kw_only=True)
class TranscriptReconstruction:
    """Names the candidate that makes the whole noisy transcript most likely.

    `gradient_elements` bounds the memory for candidates' gradients (numbers held at once).
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.TRANSCRIPT})
    game: ClassVar[str] = "reconstruction"
    any_labels: ClassVar[bool] = True

    gradient_elements: Count = 50_000_000
    overlap_every: Count = 10
    simulations: Count = 1000

    def watch(self, targets: Targets) -> SlotLikelihoods:
        assert targets.slots is not None
        return SlotLikelihoods(
            targets.slots, gradient_elements=self.gradient_elements, overlap_every=self.overlap_every
        )

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Guesses:  # noqa: ARG002
        seen = release.transcript
        assert isinstance(seen, SlotLikelihoods)
        return Guesses(
            guesses=seen.scores.argmax(dim=1),
            effective_slots=effective_slots(seen.overlaps, len(seen.scores), self.simulations, rng),
        )


@dataclass(frozen=True, kw_only=True)
class WeightsReconstruction(ByReference):
    """Names the candidate whose gradient the release was most displaced against, from trainings without it.

    The adversary is informed (Balle et al. 2022, section 2): they know every other record but the probes, and
    the weights that the training began with, and train `shadows` models on what they know. To first order
    the release differs from these by multiples of gradients: those of the planted records, once, and those
    of known ones, as often as chance sampled them, which are discounted (`Directions`). Where a training
    solves one equation, so does the adversary: at a minimum, what known records pull is what the unknown ones
    hold against it (section 3). Which to trust, and how far to discount, is chosen on the shadow models, of
    which the adversary knows who was trained on.

    Without shadow models, the candidate whose loss is lowest beside that of a reference model on records
    of the same population that were not trained on (difficulty calibration; Watson et al. 2022).
    """

    needs: ClassVar[frozenset[Access]] = frozenset({Access.WEIGHTS})
    game: ClassVar[str] = "reconstruction"
    any_labels: ClassVar[bool] = True
    shadows_needed: ClassVar[bool] = False

    shadows: Whole = 0
    private_shadows: bool = False
    known: Count = 8192  # records whose gradients are discounted, at most
    gradient_elements: Count = 40_000_000

    def trial(self, release: Release, targets: Targets, rng: torch.Generator) -> Part:
        if self.shadows:
            return Part(work=partial(self.run, release, targets, rng), times=1.0)
        return super().trial(release, targets, rng)

    def run(self, release: Release, targets: Targets, rng: torch.Generator) -> Guesses:
        assert targets.slots is not None
        inputs, labels = targets.slots.inputs.flatten(0, 1), targets.slots.labels.flatten(0, 1)
        if self.shadows and targets.shadows is not None:
            shadows = targets.shadows.train(self.shadows, private=self.private_shadows)
            scores = self._displaced(release, targets, Records(inputs, labels), shadows, rng)
        else:
            reference = self.train_reference(release, targets.background, rng)
            inputs, labels = inputs.to(release.device), labels.to(release.device)
            before, after = (_losses(release, each, inputs, labels) for each in (reference, release.build()))
            scores = before - after
        return Guesses(guesses=scores.view(targets.slots.count, -1).argmax(dim=1).cpu())

    def _displaced(
        self,
        release: Release,
        targets: Targets,
        candidates: Records,
        shadows: tuple[Shadow, ...],
        rng: torch.Generator,
    ) -> Tensor:
        """How far the release was displaced against each candidate's gradient: (candidates,)."""
        assert targets.shadows is not None
        models = [shadow.release.weights or {} for shadow in shadows]
        known, probes, like = targets.shadows.records, targets.shadows.probes, candidates.inputs
        known = known.take(torch.randperm(len(known), generator=rng)[: self.known]).read()
        views = [View.of_path(release, models, like)]
        if targets.shadows.at_once:
            views.append(View.of_optimum(release, models, known, like))
        found = []
        for view in views:
            size = view.trained.size
            made = partial(
                view.trained.gradients, at_once=max(1, min(AT_ONCE, self.gradient_elements // size))
            )
            few = known.take(torch.arange(min(len(known), self.gradient_elements // size)))
            rows = torch.cat([torch.empty(0, size, device=release.device), *made(few)])
            directions = Directions.of(rows, view.displacements)
            asked = Rows.of(made(candidates), rows, view.displacements)
            if not len(probes):
                found.append((0.0, directions.scores(asked, view.usual)))
                continue
            inside = torch.stack([shadow.members for shadow in shadows[::2]], dim=1)
            told = Rows.of(made(probes), rows, view.displacements)
            for ridge in RIDGES:
                clear = _separation(directions.scores(told, ridge)[:, 1:].cpu(), inside)
                found.append((clear, directions.scores(asked, ridge)))
        # Where nothing tells them apart, the last view: that of an optimum, where there is one.
        return max(reversed(found), key=lambda each: each[0])[1][:, 0]


def effective_slots(overlaps: Tensor, slots: int, simulations: int, rng: torch.Generator) -> float:
    """How many independent slots these slots are worth, given how their scores hang together.

    Plays the attack on simulated assignments and on noise of the covariance `overlaps`
    (slots x candidates, both ways), and divides the variance that independent slots would give
    the number of successes by the one it has. Knows nothing of the true ones.
    """
    candidates = len(overlaps) // slots
    values, vectors = torch.linalg.eigh(overlaps)
    root = vectors * values.clamp(min=0).sqrt()
    noise = torch.randn(simulations, len(overlaps), generator=rng, dtype=torch.float64) @ root.T
    truth = torch.randint(candidates, (simulations, slots), generator=rng)
    blocks = overlaps.view(slots, candidates, slots, candidates).diagonal(dim1=0, dim2=2)  # (N, N, slots)
    shift = blocks.permute(2, 0, 1)[torch.arange(slots), truth]  # (simulations, slots, candidates)
    energy = overlaps.diagonal().view(slots, candidates)
    scores = noise.view(simulations, slots, candidates) + shift - energy / 2
    success = (scores.argmax(-1) == truth).double()
    rate = success.mean(0)
    independent = float((rate * (1 - rate)).sum())
    inflation = float(success.sum(1).var()) / independent if independent > 0 else 1.0
    return slots / max(1.0, inflation)


def _separation(scores: Tensor, inside: Tensor) -> float:
    """How far the scores of those inside lie above the others', in standard deviations, over all columns."""
    within, without = scores[inside], scores[~inside]
    spread = (within.var() + without.var()).sqrt()
    return float((within.mean() - without.mean()) / spread.clamp(min=1e-30))


def _sketch(rows: Tensor, most: int = 1 << 16) -> Tensor:
    """Every so-many-th coordinate, scaled so that inner products keep their expectation."""
    stride = -(-rows.shape[1] // most)
    return rows[:, ::stride] * stride**0.5


@torch.no_grad()
def _losses(release: Release, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return torch.cat(
        [
            release.losses(model(some), named)
            for some, named in zip(inputs.split(1024), labels.split(1024), strict=True)
        ]
    )
