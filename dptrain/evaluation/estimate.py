"""How long attacks and their scoring take, from parts of them, tried on an untrained model.

No training record is touched: in place of the probes, the candidates, and whoever else attacks aim at
there are held-out records, as many.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dptrain.contracts import Access, Attack, Part, Records, Release, Shadow, Slots, Targets, by_query
from dptrain.evaluation.observing import Timed
from dptrain.evaluation.stage import Stage

SHORT = 0.5  # seconds: a shorter part is tried twice, as the first time loads what the others find at hand


def stood_in(targets: Targets) -> Targets:
    """Targets of the same kinds and numbers, made of the records that an adversary may own."""
    background = targets.background
    changes: dict[str, Any] = {}
    if targets.probes is not None:
        changes["probes"] = _many(background, len(targets.probes))
    if targets.slots is not None:
        shape = targets.slots.labels.shape[:2]
        some = _many(background, shape.numel())
        inputs = some.inputs.view(targets.slots.inputs.shape)
        changes["slots"] = Slots(inputs=inputs, labels=some.labels.unflatten(0, shape))
    if targets.subjects:
        changes["subjects"] = {
            name: _many(background, len(records)) for name, records in targets.subjects.items()
        }
    return replace(targets, **changes)


def _many(records: Records, count: int) -> Records:
    return records.take(torch.arange(count) % len(records))


def observers(stage: Stage) -> dict[str, Timed]:
    """A fresh observer for each attack that watches the training."""
    return {
        name: Timed(attack.watch(stood_in(stage.public(name))))  # type: ignore[attr-defined]
        for name, attack in stage.watching.items()
    }


@dataclass(frozen=True, kw_only=True)
class _Untrained:
    """Shadow models that nobody trained."""

    release: Release
    records: Records
    probes: Records
    at_once: bool

    def train(self, count: int, *, private: bool) -> tuple[Shadow, ...]:  # noqa: ARG002
        half = torch.arange(len(self.probes)) % 2 == 0
        return tuple(
            Shadow(release=self.release, members=half if number % 2 else ~half)
            for number in range(2 * -(-count // 2))
        )


def seconds_of_attacks(
    stage: Stage, release: Release, seen: Mapping[str, Timed], *, interfaces: int, controlled: bool
) -> dict[str, float]:
    """Seconds that each attack takes in all: on release, control and untrained models, and its scoring.

    `release` is of an untrained model, `seen` what observers saw of a trial. An attack by query meets so
    many `interfaces`. Without shadow models, which are trainings.
    """
    found: dict[str, float] = {}
    scored: set[str] = set()  # games: findings of several attacks are scored by what one of them prepared
    held_out = replace(stage.splits, train=stage.splits.holdout)
    with torch.random.fork_rng():
        for name, attack in stage.attacks.items():
            game = stage.game(name)
            untrained = 0 if Access.TRANSCRIPT in attack.needs else stage.baselines(name)
            runs = (1 + controlled + untrained) * (interfaces if by_query(attack) else 1)
            found[name] = runs * _seconds(_part(stage, name, attack, release, seen))
            if attack.game not in scored and hasattr(game, "trial"):
                found[name] += _seconds(game.trial(held_out, release.device))
            scored.add(attack.game)
    return found


def _part(stage: Stage, name: str, attack: Attack, release: Release, seen: Mapping[str, Timed]) -> Part:
    """What of an attack is tried: all of it, where it does not say."""
    targets, rng = stood_in(stage.public(name)), torch.Generator().manual_seed(0)
    shadows = targets.shadows
    if shadows is not None:
        known, probes = (_many(targets.background, len(each)) for each in (shadows.records, shadows.probes))
        stand_in = _Untrained(release=release, records=known, probes=probes, at_once=shadows.at_once)
        targets = replace(targets, shadows=stand_in)
    if name in seen:
        release = replace(release, transcript=seen[name].transcript)
    if hasattr(attack, "trial"):
        part: Part = attack.trial(release, targets, rng)
        return part
    return Part(work=lambda: attack.run(release, targets, rng), times=1.0)


def _seconds(part: Part) -> float:
    """Seconds of the whole, of which the part is tried."""
    seconds = _taken(part)
    return part.times * (_taken(part) if seconds < SHORT and part.times > 1 else seconds)


def _taken(part: Part) -> float:
    started = time.perf_counter()
    part.work()
    return time.perf_counter() - started
