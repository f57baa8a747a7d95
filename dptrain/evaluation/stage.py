"""The stage after training: every attack against the release, the twin and the untrained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dptrain.contracts import (
    Attack,
    BrokenGuarantee,
    Context,
    DptrainError,
    Exposed,
    Findings,
    Gallery,
    Images,
    Knowledge,
    Leakage,
    NotRun,
    Observation,
    Observer,
    Output,
    Records,
    Release,
    Scores,
    Shadows,
    Splits,
    Streams,
    Targets,
)
from dptrain.evaluation.assignment import Coins
from dptrain.evaluation.failures import reason, said
from dptrain.evaluation.scorer import Court, Judged
from dptrain.evidence.membership import exposure
from dptrain.evidence.verdict import Shown

UNTRAINED = 3  # models that a floor is averaged over: a single one may favour a class by chance
FAINT = 1e-3  # how long the twin's canaries are beside the release's: without noise any length shows


class Timed:
    """An observer that knows how long it has looked, and at how many steps.

    Its time counts as the attack's; an attack that was not shown every step cannot say that there was
    nothing to see. One that fails looks no further, and its attack fails when its turn comes: what an
    attack makes of the records must not decide whether a training ends well.
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.seconds = 0.0
        self.steps = 0  # different ones, in their order
        self.error: Exception | None = None
        self._last = 0

    @property
    def transcript(self) -> Observer:
        """The observer, which has seen every step; raises what it failed by where it has not."""
        if self.error is not None:
            raise self.error
        return self.observer

    def observe(self, step: Observation) -> None:
        if step.step > self._last:
            self.steps, self._last = self.steps + 1, step.step
        if self.error is not None:
            return
        started = time.perf_counter()
        try:
            self.observer.observe(step)
        except Exception as error:
            self.error = error
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self.observer.state_dict(),
            "steps": self.steps,
            "last": self._last,
            "failed": None if self.error is None else said(self.error),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observer.load_state_dict(state["seen"])
        self.steps, self._last = state["steps"], state["last"]
        if state["failed"] is not None:
            self.error = DptrainError(
                f"an attack failed while it looked on, before this run was resumed ({state['failed']}), and "
                "has not seen the whole training; mend it, or leave it out, and start a new run"
            )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under attack: its release, what is public of its records, what attacks saw of its training."""

    release: Release
    targets: Targets
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


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The attacks of a run, what is public about the records that they aim at, and what coins decided."""

    attacks: dict[str, Attack]
    targets: Targets
    coins: Coins

    @classmethod
    def prepare(cls, attacks: dict[str, Attack], splits: Splits, coins: Coins) -> Stage:
        probes = None if coins.drawing is None else coins.drawing.probes
        targets = Targets.of(
            splits,
            slots=None if coins.planting is None else coins.planting.slots,
            probes=probes,
            canaries=None if coins.sowing is None else coins.sowing.canaries,
            sensitive=splits.sensitive,
            subjects={}
            if probes is None
            else {
                column.name: Records(column.hide(probes.inputs), probes.labels) for column in splits.sensitive
            },
        )
        return cls(attacks=attacks, targets=targets, coins=coins)

    def for_twin(self) -> Stage:
        """The same stage for a training without noise, in which the canaries are faint."""
        if self.coins.sowing is None:
            return self
        sowing = self.coins.sowing.scaled(FAINT)
        return replace(
            self,
            coins=replace(self.coins, sowing=sowing),
            targets=replace(self.targets, canaries=sowing.canaries),
        )

    def with_shadows(self, shadows: Shadows) -> Stage:
        return replace(self, targets=replace(self.targets, shadows=shadows))

    @property
    def watching(self) -> dict[str, Attack]:
        """The attacks that look on while a model trains."""
        return {name: each for name, each in self.attacks.items() if Knowledge.TRANSCRIPT in each.needs}

    def observers(self) -> dict[str, Timed]:
        """A fresh observer for each attack that watches the training."""
        return {
            name: Timed(attack.watch(shown(self.targets, attack.needs)))  # type: ignore[attr-defined]
            for name, attack in self.watching.items()
        }

    def watched(self, context: Context, observers: dict[str, Timed]) -> Context:
        """The surroundings of a training that these observers look on at, with what the coins put into it."""
        coins = self.coins
        return replace(
            context,
            observers=tuple(observers.values()),
            planted=() if coins.planting is None else coins.planting.positions,
            probed=() if coins.drawing is None else coins.drawing.positions,
            canaries=None if coins.sowing is None else coins.sowing.sown,
        )


@dataclass(kw_only=True)
class Measured:
    """What came out of the stage."""

    leakage: list[Leakage] = field(default_factory=list)
    gallery: Gallery | None = None
    queries: dict[str, tuple[tuple[int, float, float | None], ...]] = field(default_factory=dict)
    exposed: tuple[Exposed, ...] = ()
    not_run: list[NotRun] = field(default_factory=list)


def measure(
    stage: Stage,
    subject: Subject,
    twin: Subject | None,
    court: Court,
    streams: Streams,
    outputs: Sequence[Output | None],
    *,
    show: Callable[[str], Any],
) -> Measured:
    """Run each attack on all that it must be compared on, and have it judged; `show` announces each by name.

    Attacks by query meet the model through each of the `outputs`; those that hold the weights or
    the noisy gradients meet it as it is. The budget is spent by now: one that fails, or cannot be judged,
    is reported as not run, and the others go on.
    """
    measured = Measured()
    scores: dict[str, Scores] = {}
    for name, attack in stage.attacks.items():
        for output in outputs if by_query(attack) else (None,):
            interface = "" if not by_query(attack) else "confidences" if output is None else output.name
            title = f"attack: {name.replace('_', ' ')}"
            with show(title if output is None else f"{title}, {interface.replace('_', ' ')}"):
                try:
                    found, judged = _tried(name, attack, subject, twin, court, streams, output, interface)
                    if output is None and isinstance(found, Scores) and court.coins.drawing is not None:
                        exposure({name: found}, court.coins.drawing)  # what cannot be listed is not judged
                        scores[name] = found
                except BrokenGuarantee:
                    raise
                except (Exception, SystemExit) as error:
                    measured.not_run.append(NotRun(attack=name, interface=interface, reason=reason(error)))
                    continue
            measured.leakage += judged.leakage
            measured.gallery = measured.gallery or judged.gallery
            if output is None and judged.queries:
                measured.queries[name] = judged.queries
    if scores and court.coins.drawing is not None:
        measured.exposed = exposure(scores, court.coins.drawing)
    return measured


def _tried(
    name: str,
    attack: Attack,
    subject: Subject,
    twin: Subject | None,
    court: Court,
    streams: Streams,
    output: Output | None,
    interface: str,
) -> tuple[Findings, Judged]:
    """What one attack found in the release through one interface, and what the judge says of it."""

    def run(target: Subject) -> Findings:
        # The same stream each time: release and twin meet the very same attack.
        release = target.as_seen_by(name, output)
        targets = shown(target.targets, attack.needs)
        return attack.run(release, targets, streams.seeded(f"attack/{name}"))

    found = run(subject)
    control, lost = _controlled(name, twin, run)
    prior = floor(attack, found, subject, run)
    judged = court.judge(name, found, control, prior, interface=interface, shown=subject.shown(name))
    if lost:
        told = [replace(line, notes=f"{line.notes}; {lost}".removeprefix("; ")) for line in judged.leakage]
        judged = replace(judged, leakage=told)
    return found, judged


def _controlled(
    name: str, twin: Subject | None, run: Callable[[Subject], Findings]
) -> tuple[Findings | None, str]:
    """What the attack finds in the twin, or None and why there is no control."""
    if twin is None:
        return None, ""
    watched, seen = twin.shown(name), twin.seen.get(name)
    failed = seen is not None and seen.error is not None  # which the attack tells by itself
    if watched is not None and not watched.whole and not failed:
        return None, f"no control: of the twin, {watched}"
    try:
        return run(twin), ""
    except BrokenGuarantee:
        raise
    except (Exception, SystemExit) as error:
        return None, f"no control: on the twin, {reason(error)}"


def shown(targets: Targets, needs: frozenset[Knowledge]) -> Targets:
    """What an attack is shown of the records: what it says that it needs, and what everybody knows."""
    inference = Knowledge.ATTRIBUTES in needs
    return replace(
        targets,
        slots=targets.slots if Knowledge.SLOTS in needs else None,
        probes=targets.probes if Knowledge.PROBES in needs else None,
        canaries=targets.canaries if Knowledge.CANARIES in needs else None,
        shadows=targets.shadows if Knowledge.SHADOWS in needs else None,
        sensitive=targets.sensitive if inference else (),
        subjects=targets.subjects if inference else {},
    )


def by_query(attack: Attack) -> bool:
    """Whether an attack meets the model through its prediction interface alone."""
    asks = attack.needs & {Knowledge.CONFIDENCES, Knowledge.LABELS}
    return bool(asks) and not attack.needs & {Knowledge.WEIGHTS, Knowledge.TRANSCRIPT}


def floor(
    attack: Attack, found: Findings, subject: Subject, run: Callable[[Subject], Findings]
) -> Findings | None:
    """What the attack makes of models that were never trained; None where its judge needs no such floor."""
    if Knowledge.TRANSCRIPT in attack.needs:  # of which an untrained model has none
        return None
    if isinstance(found, Images):
        found_there = [run(untrained(subject, number)) for number in range(UNTRAINED)]
        return _together(found_there)
    return run(untrained(subject, 0)) if Knowledge.SLOTS in attack.needs else None


def untrained(subject: Subject, seed: int) -> Subject:
    """What an attack makes of its prior alone: the same architecture with fresh weights.

    Where no weights are released it is an interface to which all classes are alike.
    """
    release, classes = subject.release, len(subject.targets.classes)
    if release.weights is None:
        alike = replace(release, predictions=lambda inputs: torch.full((len(inputs), classes), 1 / classes))
        return Subject(release=alike, targets=subject.targets)
    weights = reinitialise(release.blank(), seed).state_dict()
    return Subject(release=replace(release, weights=weights), targets=subject.targets)


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


def _together(parts: list[Any]) -> Images:
    """The images of several attacks as one."""
    return Images(
        inputs=torch.cat([part.inputs for part in parts]), labels=torch.cat([part.labels for part in parts])
    )
