"""What the models of one sweep promise together: each run on the same records spends anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dptrain.contracts import Plan
from dptrain.privacy import accountant
from dptrain.report.document import read_json


def spent_together(folder: Path, plan: Plan, delta: float) -> dict[str, Any]:
    """Epsilon at `delta` of this plan composed with every finished private run in a sweep's folder.

    An upper bound for whoever sees all the models, and for whoever picks one of them by its results.
    """
    plans = [plan, *(_plan(path) for path in sorted(folder.glob("*/report.json")))]
    known = [each for each in plans if each is not None]
    loss = accountant.privacy_loss(known[0])
    for each in known[1:]:
        loss = loss.compose(accountant.privacy_loss(each))
    return {
        "runs": len(plans),
        "epsilon_together": float(loss.get_epsilon_for_delta(delta)),
        "not_private": len(plans) - len(known),
        "sentence": "Whoever sees the models of this sweep so far, or chooses among them by their results, "
        "holds epsilon_together, not this run's epsilon.",
    }


def _plan(report: Path) -> Plan | None:
    """The plan that a report's guarantee describes; None for a run that was not private."""
    statement = read_json(report)["guarantee"]
    if not statement["private"]:
        return None
    return Plan(
        units=statement["units"],
        sample_rate=statement["sample_rate"],
        steps=statement["steps"],
        expected_batch_size=statement["expected_batch_size"],
        max_grad_norm=statement["max_grad_norm"],
        noise_multiplier=statement["noise_multiplier"],
        clipping=statement["clipping"],
        sampling=statement["sampling_run"],
        adjacency=statement["adjacency"],
    )
