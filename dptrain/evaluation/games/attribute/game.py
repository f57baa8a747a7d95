"""Attribute inference: what does a record hold in the column that was kept back?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Attributes, ConfigError, Records, Scored, Scoring, Splits, Targets
from dptrain.evaluation.games.attribute.scoring import score_attributes
from dptrain.evaluation.games.probed import OnProbes
from dptrain.evidence.probes import ProbeAssignment


@dataclass(frozen=True, kw_only=True)
class AttributeInference(OnProbes):
    """The attack sees the probes but for one sensitive column, and names its value."""

    findings: ClassVar[type] = Attributes

    evidence: Evidence

    def prepare(self, splits: Splits, *, key: bytes) -> tuple[Splits, None]:  # noqa: ARG002
        if not splits.sensitive:
            raise ConfigError(
                f"attack=attribute_inference needs a sensitive column, and data `{splits.name}` declares "
                "none; give data.sensitive, or leave the attack out"
            )
        return splits, None

    def public(self, splits: Splits, assigned: ProbeAssignment) -> Targets:
        probes = assigned.probes
        subjects = {
            column.name: Records(column.hide(probes.inputs), probes.labels) for column in splits.sensitive
        }
        return Targets.of(splits, sensitive=splits.sensitive, subjects=subjects)

    def score(self, attempt: Attempt[Attributes], scoring: Scoring) -> Scored:
        lines = score_attributes(
            attempt.attack,
            attempt.found,
            attempt.control,
            scoring.splits.sensitive,
            scoring.assigned.probes,
            scoring.assigned.members,
            scoring.guarantee,
            confidence=self.evidence.confidence,
            interface=attempt.interface,
        )
        return Scored(leakage=lines)
