"""The stage after training: every attack against the release, the twin and the untrained model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dptrain.config import Evidence
from dptrain.contracts import (
    Attack,
    Context,
    Findings,
    Gallery,
    Guarantee,
    Guesses,
    Images,
    Knowledge,
    Leakage,
    Observation,
    Observer,
    Release,
    Splits,
    Streams,
    Targets,
)
from dptrain.evidence.class_inversion import judge_class_inversion
from dptrain.evidence.evaluator import train_judge
from dptrain.evidence.reconstruction import judge_reconstruction
from dptrain.evidence.slots import Planting

UNTRAINED = 3  # models that a floor is averaged over: a single one may favour a class by chance


class Timed:
    """An observer that knows how long it has looked, so that its time counts as the attack's."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.seconds = 0.0

    def observe(self, step: Observation) -> None:
        started = time.perf_counter()
        self.observer.observe(step)
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        return self.observer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observer.load_state_dict(state)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under attack: its release, and what each attack saw of its training."""

    release: Release
    seen: dict[str, Timed] = field(default_factory=dict)
    fit_seconds: float = 0.0  # with the attacks looking on

    @property
    def watched_seconds(self) -> float:
        """The share of `fit_seconds` that belongs to the attacks."""
        return sum(seen.seconds for seen in self.seen.values())

    def as_seen_by(self, attack: str) -> Release:
        seen = self.seen.get(attack)
        return self.release if seen is None else replace(self.release, transcript=seen.observer)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The attacks of a run, and what is public about the records that they aim at."""

    attacks: dict[str, Attack]
    targets: Targets
    planting: Planting | None

    @classmethod
    def prepare(cls, attacks: dict[str, Attack], splits: Splits, planting: Planting | None) -> Stage:
        targets = Targets(
            classes=splits.classes,
            shape=splits.shape,
            bounds=splits.bounds,
            mean=splits.mean,
            background=splits.holdout,
            slots=None if planting is None else planting.slots,
        )
        return cls(attacks=attacks, targets=targets, planting=planting)

    def observers(self) -> dict[str, Timed]:
        """A fresh observer for each attack that watches the training."""
        return {
            name: Timed(attack.watch(self.targets))  # type: ignore[attr-defined]
            for name, attack in self.attacks.items()
            if Knowledge.TRANSCRIPT in attack.needs
        }

    def watched(self, context: Context, observers: dict[str, Timed]) -> Context:
        """The surroundings of a training that these observers look on at."""
        positions = () if self.planting is None else self.planting.positions
        return replace(context, observers=tuple(observers.values()), planted=positions)


def measure(
    stage: Stage,
    subject: Subject,
    twin: Subject | None,
    splits: Splits,
    guarantee: Guarantee,
    streams: Streams,
    evidence: Evidence,
    *,
    show: Callable[[str], Any],
) -> tuple[list[Leakage], Gallery | None]:
    """Run each attack on all that it must be compared on, and judge it; `show` announces each by name."""
    leakage: list[Leakage] = []
    gallery = None
    for name, attack in stage.attacks.items():
        with show(f"attack: {name.replace('_', ' ')}"):

            def run(target: Subject, name: str = name, attack: Attack = attack) -> Findings:
                # The same stream each time: release and twin meet the very same attack.
                return attack.run(target.as_seen_by(name), stage.targets, streams.seeded(f"attack/{name}"))

            found = run(subject)
            control: Any = None if twin is None else run(twin)
            if isinstance(found, Guesses):
                assert stage.planting is not None, f"{name} guessed at slots that nobody planted"
                prior: Any = None
                if Knowledge.TRANSCRIPT not in attack.needs:  # of which the untrained model has none
                    prior = run(Subject(release=untrained(subject.release, 0)))
                leakage.append(
                    judge_reconstruction(
                        name,
                        found,
                        control,
                        stage.planting.truth,
                        stage.planting.slots.candidates,
                        guarantee,
                        floor=prior,
                        confidence=evidence.confidence,
                    )
                )
            else:
                floor = [run(Subject(release=untrained(subject.release, n))) for n in range(UNTRAINED)]
                lines, gallery = judge_class_inversion(
                    found,
                    control,
                    _together(floor),
                    splits,
                    train_judge(splits, streams.seeded("judge"), device=subject.release.device),
                    guarantee,
                    streams.seeded("permutations"),
                    confidence=evidence.confidence,
                    permutations=evidence.permutations,
                )
                leakage += lines
    return leakage, gallery


def untrained(release: Release, seed: int) -> Release:
    """The same architecture with fresh weights: what an attack makes of its prior alone."""
    model = release.architecture()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in model.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # type: ignore[operator]
    return replace(release, weights=model.state_dict())


def _together(parts: list[Any]) -> Images:
    """The images of several attacks as one."""
    return Images(
        inputs=torch.cat([part.inputs for part in parts]), labels=torch.cat([part.labels for part in parts])
    )
