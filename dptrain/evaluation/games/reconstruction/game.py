"""Reconstruction: which of several candidates was trained on?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Game, Guesses, Scored, Scoring, Splits, Targets
from dptrain.evaluation.games.reconstruction.scoring import score_reconstruction
from dptrain.evaluation.games.reconstruction.slots import SlotAssignment, plant


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Game):
    """In each slot one of several candidates is trained on; the attack names one."""

    assignment: ClassVar[str] = "slots"
    untrained: ClassVar[int] = 1
    findings: ClassVar[type] = Guesses

    evidence: Evidence

    @property
    def held_out(self) -> int:
        return self.evidence.slots * self.evidence.candidates

    def prepare(self, splits: Splits, *, key: bytes) -> tuple[Splits, SlotAssignment]:
        return plant(splits, slots=self.evidence.slots, candidates=self.evidence.candidates, key=key)

    def public(self, splits: Splits, assigned: SlotAssignment) -> Targets:
        return Targets.of(splits, slots=assigned.slots)

    def score(self, attempt: Attempt[Guesses], scoring: Scoring) -> Scored:
        line = score_reconstruction(
            attempt.attack,
            attempt.found,
            attempt.control,
            scoring.assigned.truth,
            scoring.assigned.slots.candidates,
            scoring.guarantee,
            floor=attempt.baseline[0] if attempt.baseline else None,
            confidence=self.evidence.confidence,
        )
        return Scored(leakage=[replace(line, interface=attempt.interface)])
