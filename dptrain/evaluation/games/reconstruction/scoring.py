"""Scores instance reconstruction: how often the attack named the record that was planted."""

from __future__ import annotations

import math

from torch import Tensor

from dptrain.contracts import Guarantee, Guesses, Interval, Leakage
from dptrain.evidence.intervals import detection_limit, proportion
from dptrain.evidence.verdict import verdict


def score_reconstruction(
    attack: str,
    released: Guesses,
    control: Guesses | None,
    truth: Tensor,
    candidates: int,
    guarantee: Guarantee,
    *,
    confidence: float,
    floor: Guesses | None = None,
) -> Leakage:
    """Success over the slots, beside blind guessing, the control, and the bound of this run's guarantee.

    The floor is blind guessing, or what the same attack makes of an untrained model if that is more.

    Slots of one training share its noise. Where the attack knows how far they hang together, the
    interval is that of so many independent slots as they are worth; expected success, and so
    the bound, do not depend on it.
    """
    slots = len(truth)
    value = _success(released, truth, confidence)
    control_value = None if control is None else _success(control, truth, confidence)
    base_rate = 1 / candidates
    bound = guarantee.reconstruction_bound(base_rate) if math.isfinite(guarantee.epsilon()) else None
    lowest = base_rate if floor is None else max(base_rate, _success(floor, truth, confidence).value)
    effective = _effective(released, slots)
    note = (
        f"{slots} planted records, worth {effective:.1f} independent ones"
        if released.effective_slots is not None
        else f"{slots} planted records, taken as independent given the weights"
    )
    return Leakage(
        attack=attack,
        metric="success",
        value=value,
        floor=lowest,
        control=control_value,
        bound=bound,
        detection_limit=detection_limit(effective, confidence),
        verdict=verdict(value=value, floor=lowest, control=control_value, bound=bound),
        trials=slots,
        confidence=confidence,
        notes=f"each one of {candidates} candidates by a coin; {note}",
        details={"candidates": float(candidates), "effective_trials": effective},
    )


def _effective(guesses: Guesses, slots: int) -> float:
    return float(slots if guesses.effective_slots is None else guesses.effective_slots)


def _success(guesses: Guesses, truth: Tensor, confidence: float) -> Interval:
    share = float((guesses.guesses == truth).double().mean())
    trials = _effective(guesses, len(truth))
    return proportion(share * trials, trials, confidence)
