"""The privacy statement as rows for people: every term by a name that says what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dptrain.contracts import Statement
from dptrain.contracts.rounding import rounded_up_to
from dptrain.privacy.written import to_json
from dptrain.report import counts, words

# Terms by their place in the statement; one that is not here goes by its place.
NAMES = {
    "sentence": "what is proved",
    "delta_meaning": "what delta means here",
    "unit": "unit of privacy",
    "units": "number of units",
    "units_public": "number of units is public",
    "counts": "records",
    "adjacency": "neighbouring data sets",
    "released": "what the guarantee covers",
    "interface": "what is given away",
    "sampling_run": "how batches were drawn",
    "sampling_assumed": "how the accountant takes them to be drawn",
    "tpr_at_fpr: 0.001": "most true positives at 0.1 % false positives",
    "tpr_at_fpr: 0.01": "most true positives at 1 % false positives",
    "cross_checks: opacus_rdp": "epsilon by Opacus' RDP accountant",
    "cross_checks: opacus_prv": "epsilon by Opacus' PRV accountant",
    "cross_checks: riskcal_tpr_at_fpr_0.01": "most true positives at 1 % by riskcal",
    "sensitivity: most": "most that one unit moves what is noised",
    "sensitivity: records": "records of one unit in one step, at most",
    "sensitivity: independence": "rows of a batch do not depend on each other",
    "sensitivity: audit": "sensitivity audit of engine and model",
    "sensitivity: ratio": "largest measured change over the claim",
    "randomness: secret": "noise and sampling are secret",
    "randomness: cryptographic": "generator is cryptographic",
    "randomness: source": "source of randomness",
    "randomness: reach": "largest noise that can occur, in standard deviations",
    "randomness: draws": "normal numbers drawn",
    "randomness: grid": "grid of noisy sums, in standard deviations",
    "randomness: epsilon": "epsilon spent by generator and grid",
    "randomness: delta": "delta spent by generator and grid",
    "randomness: assumptions": "assumed of the randomness",
    "assignment: slots": "slots of candidates, at most",
    "assignment: candidates": "candidates of a slot, one trained on",
    "assignment: probes": "membership probes, expected",
    "assignment: probes_trained_on": "probes trained on, expected",
    "assignment: canaries": "canary gradients",
    "assignment: canaries_trained_on": "canary gradients used",
    "assignment: change": "how one unit changes what is trained on",
    "trust: model": "trust model",
    "trust: sees_records": "who sees the records",
    "trust: trusted": "trusted without proof",
    "constants: declared": "constants that are declared",
    "constants: from_units": "constants computed from the number of units",
    "constants: class_prior": "declared class frequencies",
    "constants: mean": "declared mean of inputs",
    "constants: std": "declared standard deviation of inputs",
    "constants: bounds": "declared bounds of inputs",
    "outside_guarantee": "outside the guarantee",
    "tuned_on": "settings chosen on",
    "replayed_steps": "steps repeated after an interruption",
    "lost_steps": "steps paid for and lost in an interruption",
    "code_revision": "revision of the code",
}
# What other programs ask first, and the sentence says to people.
LEFT_OUT = ("version", "void", "private")
SELDOM = ("replayed_steps", "lost_steps")  # told where there were any
PROVED = ("epsilon", "delta", "tpr")  # shown rounded up


def rows(stated: Statement) -> Iterator[tuple[str, str]]:
    """Name and text of every term that says something."""
    values = {**to_json(stated), "epsilon": stated.epsilon, "plan": dict(stated.plan)}
    values["counts"] = counts.row(stated.counts)
    values["adjacency"] = f"one unit {words.ADJACENCY[stated.adjacency]}"
    for name in SELDOM:
        if not values[name]:
            del values[name]
    for place, value in _flat({name: value for name, value in values.items() if name not in LEFT_OUT}):
        if value:
            yield NAMES.get(place, place).replace("_", " "), value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every entry of a nested statement as its place and a text."""
    for key, value in values.items():
        place = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}: ")
        elif value is not None:  # a constant that this mechanism has
            yield place, _text(place, value)


def _text(place: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(str(item).replace("_", " ") for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞"
        return rounded_up_to(value, 6) if any(word in place for word in PROVED) else f"{value:.6g}"
    return str(value)
