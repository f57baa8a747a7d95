"""Who attacks what: the attacks of a run, what is public to each, and the models that they are run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from dptrain.contracts import (
    Access,
    Attack,
    Context,
    Game,
    Output,
    Release,
    Shadows,
    Splits,
    Targets,
    wants_shadows,
)
from dptrain.evaluation.assignment import Assignments
from dptrain.evaluation.observing import Timed
from dptrain.evidence.verdict import Shown


def in_random_order(model: nn.Module, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """These weights of the model, the entries of each trained tensor dealt anew among its places.

    A frozen part is public, and stays as it is.
    """
    rng = torch.Generator().manual_seed(seed)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    dealt = {}
    for name, values in weights.items():
        order = torch.randperm(values.numel(), generator=rng) if name in trained else None
        dealt[name] = values if order is None else values.flatten()[order.to(values.device)].view_as(values)
    return dealt


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under attack: its release, what each attack is shown of its records and saw of its training."""

    release: Release
    targets: Mapping[str, Targets]  # by attack
    seen: dict[str, Timed] = field(default_factory=dict)
    steps: int | None = None  # of its training; None: nobody says how many there were
    fit_seconds: float = 0.0  # with the attacks looking on
    met: Mapping[str, Release] = field(default_factory=dict)  # by attack, where each has a way of its own

    @property
    def watched_seconds(self) -> float:
        """The share of `fit_seconds` that belongs to the attacks."""
        return sum(seen.seconds for seen in self.seen.values())

    def shown(self, attack: str) -> Shown | None:
        """How much of the training this attack saw; None where it does not look on."""
        seen = self.seen.get(attack)
        return None if seen is None else Shown(steps=seen.steps, of=self.steps)

    def as_seen_by(self, attack: str, output: Output | None) -> Release:
        """The release as an attack meets it: with what it saw of the training, through this interface."""
        seen = self.seen.get(attack)
        release = self.met.get(attack, self.release)
        return replace(release, output=output, transcript=None if seen is None else seen.transcript)

    def untrained(self, seed: int) -> Subject:
        """What an attack makes of its prior alone: the same model, its trained weights in random order.

        In that order they know nothing, and where all that was trained is noise on a random start, the
        release is one such order of many. Where no weights are released it is an interface to which all
        classes are alike.
        """
        release = self.release
        if release.weights is None:
            classes = len(next(iter(self.targets.values())).classes)
            alike = torch.full((1, classes), 1 / classes)
            if release.task is not None:
                alike = release.task.predict(torch.zeros(1, *release.task.outputs))
            blind = replace(release, predictions=lambda inputs: alike.expand(len(inputs), *alike.shape[1:]))
            return Subject(release=blind, targets=self.targets)
        weights = in_random_order(release.blank(), release.weights, seed)
        return Subject(release=replace(release, weights=weights), targets=self.targets)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The attacks of a run, the games that they play, and what was assigned before training."""

    attacks: Mapping[str, Attack]
    games: Mapping[str, Game]
    splits: Splits
    assignments: Assignments
    shadows: Shadows | None = None

    def game(self, attack: str) -> Game:
        """The game that an attack plays."""
        return self.games[self.attacks[attack].game]

    def baselines(self, attack: str) -> int:
        """How many untrained models the game of an attack has it run on."""
        return self.game(attack).baselines(self.splits)

    @property
    def targets(self) -> dict[str, Targets]:
        """What each attack is shown of the records."""
        return {name: self.public(name) for name in self.attacks}

    def public(self, name: str) -> Targets:
        """What an attack is shown of the records: what is public in its game, and shadows if it asks."""
        game = self.game(name)
        targets = game.public(self.splits, self.assignments.of(game))
        return replace(targets, shadows=self.shadows) if wants_shadows(self.attacks[name]) else targets

    @property
    def watching(self) -> dict[str, Attack]:
        """The attacks that look on while a model trains."""
        return {name: each for name, each in self.attacks.items() if Access.TRANSCRIPT in each.needs}

    def observers(self) -> dict[str, Timed]:
        """A fresh observer for each attack that watches the training."""
        return {
            name: Timed(attack.watch(self.public(name)))  # type: ignore[attr-defined]
            for name, attack in self.watching.items()
        }

    def watched(self, context: Context, observers: Mapping[str, Timed]) -> Context:
        """The surroundings of a training that these observers look on at, with what was assigned to it."""
        return replace(self.assignments.enter(context), observers=tuple(observers.values()))
