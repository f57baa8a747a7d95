"""What games on the probes have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dptrain.contracts import PROBES, Game, Splits, Targets
from dptrain.evidence.probes import FEWEST, ProbeAssignment

MOST = 3  # training records there must be to each probe: about half of the probes stay out of the training


class OnProbes(Game):
    """A game about the probes: records of which a random choice decided whether they are trained on."""

    assignment: ClassVar[str] = PROBES

    def public(self, splits: Splits, assigned: ProbeAssignment) -> Targets:
        return Targets.of(splits, probes=assigned.probes)

    def problems(self, splits: Splits, assigned: ProbeAssignment | None) -> Iterator[str]:
        if assigned is None and splits.group_ids is not None and splits.holdout_group_ids is None:
            yield (
                "nobody says whose the held-out records are, of which each must be of somebody else; give "
                "their groups too, as the training records', or leave the attack out"
            )
            return
        if assigned is None:
            there, needed = f"{len(splits.train):,} training records", MOST * FEWEST
            if splits.holdout_group_ids is not None:  # of which the probes are
                there, needed = f"{len(splits.holdout_group_ids.unique()):,} held-out groups", 2 * FEWEST
            yield (
                f"{there} are too few for membership attacks and audits of records, which need about "
                f"{needed}; add records, or leave the attack out"
            )
            return
        inside, scored = int(assigned.members.sum()), len(assigned.members)
        if scored < FEWEST:
            yield (
                f"{scored} records that occur once came to be probes, fewer than {FEWEST}; raise "
                "evidence.probes, hold out more records, or leave the attack out"
            )
        elif not 0 < inside < scored:
            yield (
                f"of the {len(assigned.members)} probes {inside} are trained on, so there is nothing to tell "
                "apart; raise evidence.probes, or change seed"
            )
