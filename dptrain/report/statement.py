"""The guarantee as JSON for a public registry of deployments, after the schema in `statement_schema`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dptrain.contracts import DataError, Hashes, Randomness, Report, Statement
from dptrain.privacy.written import VERSION as WRITTEN
from dptrain.privacy.written import from_json, part, to_json
from dptrain.report import selection, sentences, words
from dptrain.report.statement_schema import SCHEMA, VERSION

CONSTANTS = (
    "noise_multiplier", "max_grad_norm", "clipping", "sample_rate", "steps", "expected_batch_size",
    "sampling_run", "sampling_assumed",
)  # fmt: skip
NUMBERS = ("noise_multiplier", "max_grad_norm", "sample_rate", "steps", "expected_batch_size")


def as_statement(report: Report) -> dict[str, Any]:
    """The guarantee as the model is released under it, and nothing that was measured.

    Where none holds, `proved` is None, so that no reader can mistake a void epsilon for a promise;
    where the number of units is secret, it is not in here.
    """
    report = selection.as_released(report)
    stated = report.guarantee
    public = stated.units_public
    return {
        "$schema": SCHEMA,
        "version": VERSION,
        "recipe": report.recipe,
        "data": str(report.data["name"]),
        "status": _status(stated),
        "void_reason": stated.void_reason,
        "sentence": stated.sentence,
        "released": stated.released,
        "interface": stated.interface,
        "unit": stated.unit,
        "adjacency": stated.adjacency,
        "units_public": public,
        "units": stated.units if public else None,
        "proved": _proved(stated) if sentences.holds(stated) else None,
        "mechanism": _mechanism(report.mechanism, stated),
        "accountant": _accountant(stated),
        "search": selection.search(stated),
        "outside_guarantee": list(stated.outside_guarantee),
        "randomness": to_json(stated.randomness) if sentences.holds(stated) else None,
        "sensitivity": to_json(stated.sensitivity),
        "assignment": to_json(stated.assignment),
        "counts": to_json(stated.counts),
        "trust": to_json(stated.trust),
        "constants": to_json(stated.constants),
        "public_data": list(stated.public_data),
        "date": stated.date,
        "hashes": to_json(stated.hashes),
        "code": {"revision": stated.code_revision, "versions": dict(stated.versions)},
    }


@dataclass(frozen=True, kw_only=True)
class Published:
    """A statement as it was published."""

    status: str  # holds | void | none
    stated: Statement
    selected: bool  # of the best of a private selection


def read_statement(document: Mapping[str, Any]) -> Published:
    """What `as_statement` wrote; raises DataError, KeyError or TypeError where it is not whole.

    Where nothing is proved, epsilon is infinite and delta 0.
    """
    part(Hashes, document.get("hashes"), "hashes")
    status, mechanism = document["status"], document["mechanism"]
    if status not in ("holds", "void", "none"):
        raise DataError(f"status={status} is none of holds, void, none")
    proved: dict[str, Any] = (
        document["proved"] if status == "holds" else {"epsilon": None, "delta": 0.0, "tpr_at_fpr": ()}
    )
    if status == "holds":
        numbers = [proved["epsilon"], proved["delta"]]
        numbers += () if "plan" in mechanism else [mechanism[name] for name in NUMBERS]
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
            raise DataError("a constant of the mechanism or of what is proved is no number")
        part(Randomness, document["randomness"], "randomness")
    values = {
        **{each.name: document[each.name] for each in fields(Statement) if each.name in document},
        **{key: value for key, value in mechanism.items() if key != "name"},
        **proved,
        "tpr_at_fpr": {str(each["fpr"]): each["tpr"] for each in proved["tpr_at_fpr"]},
        "private": status != "none",
        "accountant": " ".join(filter(None, (document["accountant"] or {"name": "none"}).values())),
        "tuned_on": document["search"]["tuned_on"],
        "versions": document["code"]["versions"],
        "code_revision": document["code"]["revision"],
        "version": WRITTEN,
    }
    selected = document["search"]["selection"] is not None
    return Published(status=status, stated=from_json(values, "statement"), selected=selected)


def _mechanism(name: str, stated: Statement) -> dict[str, Any]:
    """DP-SGD's constants by name; of a mechanism that has others those, in its own words."""
    if stated.plan:
        return {"name": name, "plan": [list(row) for row in stated.plan]}
    return {"name": name, **{name: getattr(stated, name) for name in CONSTANTS}}


def _status(stated: Statement) -> str:
    if stated.void:
        return "void"
    return "holds" if words.is_private(stated) else "none"


def _proved(stated: Statement) -> dict[str, Any]:
    return {
        "epsilon": stated.epsilon,
        "delta": stated.delta,
        "delta_meaning": stated.delta_meaning,
        "tpr_at_fpr": [{"fpr": float(fpr), "tpr": tpr} for fpr, tpr in stated.tpr_at_fpr.items()],
        "cross_checks": dict(stated.cross_checks),
    }


def _accountant(stated: Statement) -> dict[str, str | None] | None:
    """Name and version, from "dp-accounting PLD 0.6.0"; None where nothing was accounted for."""
    if not words.is_private(stated):
        return None
    name, _, last = str(stated.accountant).rpartition(" ")
    if name and last[:1].isdigit():
        return {"name": name, "version": last}
    return {"name": str(stated.accountant), "version": None}
