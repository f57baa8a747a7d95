"""What games on the probes have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dptrain.contracts import PROBES, Game, Splits, Targets
from dptrain.evidence.probes import ProbeAssignment


class OnProbes(Game):
    """A game about the probes: records of which a random choice decided whether they are trained on."""

    assignment: ClassVar[str] = PROBES

    def public(self, splits: Splits, assigned: ProbeAssignment) -> Targets:
        return Targets.of(splits, probes=assigned.probes)

    def problems(self, splits: Splits, assigned: ProbeAssignment) -> Iterator[str]:  # noqa: ARG002
        inside = int(assigned.members.sum())
        if not 0 < inside < len(assigned.members):
            yield (
                f"of the {len(assigned.members)} probes {inside} are trained on, so there is nothing to tell "
                "apart; raise evidence.probes, or change seed"
            )
