"""Who attacks what: the attacks of a run, what is public to each, and the models that they are run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

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


def reinitialise(model: nn.Module, seed: int) -> nn.Module:
    """This model with the weights of every layer that is trained drawn afresh.

    A frozen part is public, such as a network that was trained on public data: whoever attacks has it too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model.modules():
            trained = any(parameter.requires_grad for parameter in layer.parameters())
            if trained and hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # type: ignore[operator]
    return model


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under attack: its release, what each attack is shown of its records and saw of its training."""

    release: Release
    targets: Mapping[str, Targets]  # by attack
    seen: dict[str, Timed] = field(default_factory=dict)
    steps: int | None = None  # of its training; None: nobody says how many there were
    fit_seconds: float = 0.0  # with the attacks looking on

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
        return replace(self.release, output=output, transcript=None if seen is None else seen.transcript)

    def untrained(self, seed: int) -> Subject:
        """What an attack makes of its prior alone: the same architecture with fresh weights.

        Where no weights are released it is an interface to which all classes are alike.
        """
        release = self.release
        if release.weights is None:
            classes = len(next(iter(self.targets.values())).classes)
            alike = torch.full((1, classes), 1 / classes)
            if release.task is not None:
                alike = release.task.predict(torch.zeros(1, *release.task.outputs))
            blind = replace(release, predictions=lambda inputs: alike.expand(len(inputs), *alike.shape[1:]))
            return Subject(release=blind, targets=self.targets)
        weights = reinitialise(release.blank(), seed).state_dict()
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
