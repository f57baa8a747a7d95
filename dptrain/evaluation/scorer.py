"""The stage after training: every attack on release, control and untrained models, scored by its game."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import (
    Access,
    Attack,
    Attempt,
    BrokenGuarantee,
    DataError,
    Exposed,
    Findings,
    Gallery,
    Guarantee,
    Leakage,
    NotRun,
    Output,
    Scored,
    Scores,
    Scoring,
    Streams,
    by_query,
)
from dptrain.evaluation.failures import reason
from dptrain.evaluation.stage import Stage, Subject
from dptrain.evidence.probes import ProbeAssignment
from dptrain.evidence.verdict import Shown, as_shown
from dptrain.runs.cache import Cache, content_key
from dptrain.storage import Unwritable


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """All that scoring takes: attacks and games, what was assigned, the guarantee, where results are kept."""

    stage: Stage
    nodes: Mapping[str, Mapping[str, Any]]  # of the games, as configured
    guarantee: Guarantee
    streams: Streams
    device: torch.device
    cache: Cache

    def score(self, attempt: Attempt[Any], shown: Shown | None = None) -> Scored:
        """What an attempt comes to in the attack's game.

        `shown` is how much of the training the attack saw, if it looks on. Raises DataError where the
        findings are not of the game's type, or what was measured is no number.
        """
        game, stage = self.stage.game(attempt.attack), self.stage
        named = stage.attacks[attempt.attack].game
        if not isinstance(attempt.found, game.findings):
            raise DataError(
                f"it returned {type(attempt.found).__name__}, and game `{named}` is played with "
                f"{game.findings.__name__}"
            )
        scoring = Scoring(
            splits=stage.splits,
            assigned=stage.assignments.of(game),
            guarantee=self.guarantee,
            streams=self.streams,
            device=self.device,
            keep=partial(self._keep, self.nodes.get(named, {})),
        )
        scored = game.score(attempt, scoring)
        for line in scored.leakage:
            if math.isnan(line.value.value):
                raise DataError(f"{line.metric} is no number: the model's answers are not finite")
        return replace(scored, leakage=[as_shown(line, shown) for line in scored.leakage])

    def _keep(
        self, node: Mapping[str, Any], kind: str, key: tuple[Any, ...], make: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        return self.cache.get(content_key(kind, key, (), {"game": node}), make)


@dataclass(kw_only=True)
class Measured:
    """What came out of all attacks."""

    leakage: list[Leakage] = field(default_factory=list)
    gallery: Gallery | None = None
    queries: dict[str, tuple[tuple[int, float, float | None], ...]] = field(default_factory=dict)
    exposed: tuple[Exposed, ...] = ()
    not_run: list[NotRun] = field(default_factory=list)


def measure(
    scorer: Scorer,
    subject: Subject,
    control: Subject | None,
    outputs: Sequence[Output | None],
    *,
    show: Callable[[str], Any],
) -> Measured:
    """Run each attack on all that it must be compared on, and have it scored; `show` announces each by name.

    Attacks by query meet the model through each of the `outputs`; those that hold the weights or
    the noisy gradients meet it as it is. The budget is spent by now: one that fails, or cannot be scored,
    is reported as not run, and the others go on.
    """
    measured = Measured()
    scores: dict[str, Scores] = {}
    probes = scorer.stage.assignments.probes
    for name, attack in scorer.stage.attacks.items():
        for output in outputs if by_query(attack) else (None,):
            interface = "" if not by_query(attack) else "confidences" if output is None else output.name
            title = f"attack: {name.replace('_', ' ')}"
            with show(title if output is None else f"{title}, {interface.replace('_', ' ')}"):
                try:
                    scored = _scored(name, attack, subject, control, scorer, output, interface)
                    if output is None and scored.exposes is not None and probes is not None:
                        exposure({name: scored.exposes}, probes)  # what cannot be listed is not scored
                        scores[name] = scored.exposes
                except (BrokenGuarantee, Unwritable):
                    raise
                except (Exception, SystemExit) as error:
                    measured.not_run.append(NotRun(attack=name, interface=interface, reason=reason(error)))
                    continue
            measured.leakage += scored.leakage
            measured.gallery = measured.gallery or scored.gallery
            if output is None and scored.queries:
                measured.queries[name] = scored.queries
    if scores and probes is not None:
        measured.exposed = exposure(scores, probes)
    return measured


def _scored(
    name: str,
    attack: Attack,
    subject: Subject,
    control: Subject | None,
    scorer: Scorer,
    output: Output | None,
    interface: str,
) -> Scored:
    """What one attack finds in the release through one interface, scored."""

    def run(target: Subject) -> Findings:
        # The same stream each time: release and control meet the very same attack.
        release = target.as_seen_by(name, output)
        return attack.run(release, target.targets[name], scorer.streams.seeded(f"attack/{name}"))

    found = run(subject)
    compared, lost = _controlled(name, control, run)
    # Of an untrained model there is no transcript.
    untrained = 0 if Access.TRANSCRIPT in attack.needs else scorer.stage.game(name).untrained
    attempt = Attempt(
        attack=name,
        interface=interface,
        found=found,
        control=compared,
        baseline=tuple(run(subject.untrained(seed)) for seed in range(untrained)),
    )
    scored = scorer.score(attempt, subject.shown(name))
    if lost:
        lines = [replace(line, notes=f"{line.notes}; {lost}".removeprefix("; ")) for line in scored.leakage]
        scored = replace(scored, leakage=lines)
    return scored


def _controlled(
    name: str, control: Subject | None, run: Callable[[Subject], Findings]
) -> tuple[Findings | None, str]:
    """What the attack finds in the control model, or None and why there is no control."""
    if control is None:
        return None, ""
    watched, seen = control.shown(name), control.seen.get(name)
    failed = seen is not None and seen.error is not None  # which the attack tells by itself
    if watched is not None and not watched.whole and not failed:
        return None, f"no control: of the control model, {watched}"
    try:
        return run(control), ""
    except (BrokenGuarantee, Unwritable):
        raise
    except (Exception, SystemExit) as error:
        return None, f"no control: on the control model, {reason(error)}"


def exposure(scores: Mapping[str, Scores], assigned: ProbeAssignment) -> tuple[Exposed, ...]:
    """The members among the probes, those first that some attack sees best, and among equals most attacks."""
    members = assigned.members.nonzero().flatten()
    percentiles = {attack: _percentiles(found.scores, assigned.members) for attack, found in scores.items()}
    rows = [
        Exposed(
            record=assigned.origin[probe],
            label=_shown(assigned.probes.labels[probe]),
            score={attack: float(found.scores[probe]) for attack, found in scores.items()},
            percentile={attack: float(shares[place]) for attack, shares in percentiles.items()},
        )
        for place, probe in enumerate(members.tolist())
    ]
    return tuple(sorted(rows, key=lambda row: (-max(row.percentile.values()), -sum(row.percentile.values()))))


def _shown(label: Tensor) -> int | str:
    """A class, or the numbers of another task's label."""
    if label.dtype == torch.int64 and label.ndim == 0:
        return int(label)
    return " ".join(f"{number:g}" for number in label.flatten().tolist())


def _percentiles(scores: Tensor, members: Tensor) -> Tensor:
    """Share of the non-members below each member: (members,)."""
    outside = scores[~members].sort().values
    return torch.searchsorted(outside, scores[members]).double() / len(outside)
