"""Membership: was this record trained on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Scored, Scores, Scoring
from dptrain.evaluation.games.membership.scoring import score_membership
from dptrain.evaluation.games.probed import OnProbes


@dataclass(frozen=True, kw_only=True)
class Membership(OnProbes):
    """Every probe is given a score, which should be higher where it was trained on."""

    findings: ClassVar[type] = Scores

    evidence: Evidence

    def score(self, attempt: Attempt[Scores], scoring: Scoring) -> Scored:
        lines = score_membership(
            attempt.attack,
            attempt.found,
            attempt.control,
            scoring.assigned.members,
            scoring.guarantee,
            confidence=self.evidence.confidence,
            interface=attempt.interface,
        )
        return Scored(leakage=lines, exposes=attempt.found)
