"""The audit of records: which natural records took part in the training?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Bets, Detectable, Guarantee, Scored, Scoring, Splits
from dptrain.evaluation.games.audit.scoring import detectable, score_bets
from dptrain.evaluation.games.probed import OnProbes
from dptrain.evidence.probes import ProbeAssignment


@dataclass(frozen=True, kw_only=True)
class AuditOfRecords(OnProbes):
    """The attack bets on which of the probes were trained on."""

    findings: ClassVar[type] = Bets

    evidence: Evidence

    def detectable(
        self,
        splits: Splits,  # noqa: ARG002
        assigned: ProbeAssignment,
        guarantee: Guarantee,
    ) -> Iterator[Detectable]:
        yield detectable(len(assigned.probes), guarantee, confidence=self.evidence.confidence)

    def score(self, attempt: Attempt[Bets], scoring: Scoring) -> Scored:
        return score_bets(attempt, scoring, on="probes", confidence=self.evidence.confidence)
