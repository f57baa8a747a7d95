"""The audit of records: which natural records took part in the training?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Bets, Scored, Scoring
from dptrain.evaluation.games.audit.scoring import score_bets
from dptrain.evaluation.games.probed import OnProbes


@dataclass(frozen=True, kw_only=True)
class AuditOfRecords(OnProbes):
    """The attack bets on which of the probes were trained on."""

    findings: ClassVar[type] = Bets

    evidence: Evidence

    def score(self, attempt: Attempt[Bets], scoring: Scoring) -> Scored:
        return score_bets(attempt, scoring, on="probes", confidence=self.evidence.confidence)
