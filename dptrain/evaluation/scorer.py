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
    Attack,
    Attempt,
    BrokenGuarantee,
    DataError,
    Exposed,
    Gallery,
    Guarantee,
    Leakage,
    NotRun,
    Output,
    Ranks,
    Scored,
    Scores,
    Scoring,
    Streams,
)
from dptrain.evaluation.failures import reason
from dptrain.evaluation.meetings import Subjects, found_ahead, met_through, named
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
    ranks: Ranks | None = None,
    drawn: Streams | None = None,
) -> Measured:
    """Run each attack on all that it must be compared on, and have it scored; `show` announces each by name.

    Attacks draw from the streams `drawn`; None: from the scorer's.

    `ranks` see to several of them at a time, before the first is scored. Attacks by query meet the model
    through each of the `outputs`; those that hold the weights or the noisy gradients meet it as it is. The
    budget is spent by now: one that fails, or cannot be scored, is reported as not run, and the others go on.
    """
    measured = Measured()
    scores: dict[str, Scores] = {}
    probes = scorer.stage.assignments.probes
    streams = scorer.streams if drawn is None else drawn
    subjects = Subjects(stage=scorer.stage, streams=streams, released=subject, control=control)
    if ranks is not None and not ranks.sharded:  # of a model that one process does not hold nothing is sent
        with show(f"attacks, by {ranks.size} processes"):
            subjects = replace(subjects, ahead=found_ahead(subjects.shared(outputs), ranks))
    for name, attack in scorer.stage.attacks.items():
        for output in met_through(attack, outputs):
            interface = named(attack, output)
            title = f"attack: {name.replace('_', ' ')}"
            with show(title if output is None else f"{title}, {interface.replace('_', ' ')}"):
                try:
                    scored = _scored(scorer, subjects, name, attack, output)
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


def _scored(scorer: Scorer, subjects: Subjects, name: str, attack: Attack, output: Output | None) -> Scored:
    """What one attack finds in the release through one interface, scored."""
    attempt, lost = subjects.attempt(name, attack, output)
    scored = scorer.score(attempt, subjects.released.shown(name))
    if lost:
        lines = [replace(line, notes=f"{line.notes}; {lost}".removeprefix("; ")) for line in scored.leakage]
        scored = replace(scored, leakage=lines)
    return scored


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
