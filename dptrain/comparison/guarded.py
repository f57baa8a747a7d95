"""What guards of services did over the seeds of a point."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dptrain.comparison.gather import Found
from dptrain.contracts import Statement
from dptrain.evidence.intervals import clopper_pearson
from dptrain.evidence.shares import mean_of_shares
from dptrain.report.comparison.points import Guarded, Probed


def guarded(runs: Sequence[Found], confidence: float) -> Guarded | None:
    """What the guards of these runs' services did, all seeds together; None: there was no service."""
    found = [run.report["guarding"] for run in runs if run.report.get("guarding")]
    if not found or len(found) < len(runs):
        return None
    attacks = dict.fromkeys(each["attack"] for one in found for each in one["probing"])
    normal = [one["normal"] for one in found if one["normal"]]
    sessions, flagged, withheld = sum(each["sessions"] for each in normal), None, None
    if sessions:
        flagged = clopper_pearson(round(_over_sessions(normal, "flagged")), sessions, confidence)
        withheld = mean_of_shares(_over_sessions(normal, "withheld") / sessions, sessions, confidence)
    return Guarded(
        guards=tuple(found[0]["guards"]),
        probed={name: _probed(name, found) for name in attacks},
        sessions=sessions,
        queries=sum(each["queries"] for each in normal),
        flagged=flagged,
        withheld=withheld,
        milliseconds={
            name: statistics.median(one["latency"][name] for one in found)
            for name in ("p50", "p99", "bare_p50", "bare_p99")
        },
    )


def _probed(name: str, found: Sequence[Mapping[str, Any]]) -> Probed:
    mine = [each for one in found for each in one["probing"] if each["attack"] == name]
    asked = sum(each["asked"] for each in mine)
    refused = asked - sum(each["answered"] for each in mine)
    return Probed(
        asked=asked,
        withheld=(refused + sum(each["coarse"] for each in mine)) / max(1, asked),
        until_alarm=tuple(each["until_alarm"] for each in mine),
        flagged=sum(each["flagged"] for each in mine),
        sessions=sum(each["sessions"] for each in mine),
    )


def _over_sessions(normal: Sequence[Mapping[str, Any]], share: str) -> float:
    """The sum of a share, of sessions or of the queries of each, over all seeds' sessions."""
    return float(sum(each[share]["value"] * each["sessions"] for each in normal))


def released(found: Sequence[Found]) -> list[Statement]:
    """The statement of each training among these runs: a model that is attacked often is released once."""
    audited = {run.report["recipe"]: run.guarantee for run in found if run.report.get("guarding")}
    return [*audited.values(), *(run.guarantee for run in found if not run.report.get("guarding"))]
