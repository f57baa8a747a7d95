"""What became of the records of a run, in numbers, and which numbers of its evidence they are too few for."""

from __future__ import annotations

from dptrain.config import Evidence
from dptrain.contracts import PROBES, Budget, Counts, Scaled, Splits
from dptrain.evaluation.assignment import Assignments
from dptrain.evidence.intervals import detection_limit

TRIALS = {"slots": 1, PROBES: 2}  # how many of these there are to one trial: half of the probes are members


def counts(splits: Splits, assignments: Assignments, budget: Budget) -> Counts:
    """The numbers of records, and of units, of these splits as they are trained on."""
    parts = len(splits.train), len(splits.holdout), len(splits.test)
    aside = dict(assignments.set_aside)
    if splits.public is not None and splits.public_origin is not None:  # they were held out
        aside["public"] = len(splits.public)
    grouped = budget.unit != "record" and splits.group_ids is not None
    return Counts(
        unit=budget.unit,
        files=sum(parts) + sum(aside.values()),
        trained_on=parts[0],
        units=len(splits.group_ids.unique()) if grouped else parts[0],  # type: ignore[union-attr]
        holdout=parts[1],
        test=parts[2],
        set_aside=aside,
    )


def scaled(assignments: Assignments, evidence: Evidence) -> tuple[Scaled, ...]:
    """The numbers of `evidence` that there was no room for, and what is left of them."""
    there, found = assignments.described(), []
    for key in ("slots", "candidates", PROBES, "canaries"):
        asked, used = getattr(evidence, key), getattr(there, key)
        if used is not None and used < asked:
            trials = TRIALS.get(key)
            limits = trials and (
                detection_limit(used / trials, evidence.confidence),
                detection_limit(asked / trials, evidence.confidence),
            )
            found.append(Scaled(key=f"evidence.{key}", asked=asked, used=used, limits=limits or None))
    return tuple(found)
