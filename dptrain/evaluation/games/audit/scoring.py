"""Scores one-run audits: what the bets of one attack certify, beside what is proved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dptrain.contracts import (
    Attempt,
    Bets,
    ConfigError,
    Guarantee,
    Interval,
    Leakage,
    Scored,
    Scoring,
)
from dptrain.evaluation.games.audit.mechanism import mechanism_checks
from dptrain.evidence.one_run import (
    certified_gaussian,
    certified_independent,
    certified_steinke,
    p_value_f,
    planned_guesses,
)
from dptrain.evidence.roc import delong
from dptrain.evidence.verdict import BROKEN, verdict

UNPROVED_MU = 10.0  # what bets are planned for where nothing is proved
ALARM = 1e-6  # a p-value of noise or batches below this is no accident
ROUNDING = 1e-3  # relative, of sums in single precision

_NAMES = {"probes": "natural records", "canaries": "canaries"}  # of what was assigned


def score_audit(
    attack: str,
    released: Bets,
    control: Bets | None,
    members: Tensor,
    guarantee: Guarantee,
    *,
    on: str,
    rng: torch.Generator,
    confidence: float,
    interface: str = "",
) -> Leakage:
    """The epsilon that an attack's bets certify, beside the control's and the one proved.

    Bets are `on` probes or canaries, of which `members` (records,) bool took part. The implementation is
    broken where so many right bets are too improbable under this run's own trade-off curve, where the
    noise is too small or repeats itself, where a record adds more than clipping allows, or where batches
    (counted on the control, where no noise hides them) are more even than Poisson sampling makes them.
    Raises ConfigError where the attack asks for a number of bets that cannot be split over both ends.
    """
    private = math.isfinite(guarantee.epsilon())
    guesses = _guesses(attack, released, len(members), guarantee.mu if private else UNPROVED_MU, confidence)
    correct = bet(released.scores, members, guesses, rng)

    def certified(right: int) -> Interval:
        epsilon = certified_gaussian(right, guesses, len(members), guarantee.delta, confidence)
        return Interval(value=epsilon, low=epsilon, high=math.inf)

    value = certified(correct)
    control_value = None if control is None else certified(bet(control.scores, members, guesses, rng))
    bound = guarantee.epsilon() if private else None
    p_value = p_value_f(correct, guesses, len(members), guarantee.membership_tpr) if private else 1.0
    checks = mechanism_checks(released, control, members) if private else {}
    alarms = _alarms(p_value, checks, confidence)
    # What is proved is a curve, and the certificate is within the Gaussian family: the curve decides.
    found = verdict(value=value, floor=0.0, control=control_value, bound=math.inf if private else None)
    return Leakage(
        attack=attack,
        metric="certified_epsilon",
        value=value,
        floor=0.0,
        control=control_value,
        bound=bound,
        detection_limit=certified(guesses).value,
        verdict=BROKEN if alarms else found,
        trials=guesses,
        confidence=confidence,
        interface=interface,
        notes="; ".join([*alarms, _notes(released, on, len(members), guesses, private=private)]),
        details={
            "steinke": certified_steinke(correct, guesses, len(members), guarantee.delta, confidence),
            "correct": float(correct),
            "guesses": float(guesses),
            "canaries": float(len(members)),
            "p_value_of_guarantee": p_value,
            "auc": auc(released.scores, members),
            **_independent(on, correct, guesses, len(members), guarantee.delta, confidence),
            **checks,
        },
    )


def score_bets(attempt: Attempt[Bets], scoring: Scoring, *, on: str, confidence: float) -> Scored:
    """The line of an attack that bets on probes or canaries."""
    line = score_audit(
        attempt.attack,
        attempt.found,
        attempt.control,
        scoring.assigned.members,
        scoring.guarantee,
        on=on,
        rng=scoring.streams.seeded(f"judge/{attempt.attack}"),
        confidence=confidence,
        interface=attempt.interface,
    )
    return Scored(leakage=[line])


def bet(scores: Tensor, members: Tensor, guesses: int, rng: torch.Generator) -> int:
    """How many bets are right when the guesses / 2 highest scores are called members, the lowest not.

    Ties are broken by lot: a position may tell of the assignment, a score must.
    """
    assert not scores.isnan().any(), "a score that is no number cannot be bet on"
    lot = torch.randperm(len(scores), generator=rng)
    ranked = members[lot[scores[lot].argsort(stable=True)]].bool()
    half = guesses // 2
    return int((~ranked[:half]).sum() + ranked[len(ranked) - half :].sum())


def auc(scores: Tensor, members: Tensor) -> float:
    """How often a member outscores a non-member, ties counted half; 0.5 where either is missing."""
    members = members.bool()
    if bool(members.all()) or not bool(members.any()):
        return 0.5
    return delong(scores, members)[0]


def _independent(
    on: str, correct: int, guesses: int, canaries: int, delta: float, confidence: float
) -> dict[str, float]:
    """The certificate that takes noise as independent, as that of canaries with a coordinate each is."""
    if on != "canaries":
        return {}
    return {"certified_if_independent": certified_independent(correct, guesses, canaries, delta, confidence)}


def _guesses(attack: str, bets: Bets, canaries: int, mu: float, confidence: float) -> int:
    if bets.guesses is None:
        return planned_guesses(mu, canaries, confidence)
    if bets.guesses % 2 or not 2 <= bets.guesses <= canaries:
        raise ConfigError(
            f"attack.{attack}.guesses={bets.guesses} must be an even number from 2 to the {canaries} that "
            "coins were flipped for, or null to have it planned"
        )
    return bets.guesses


def _alarms(p_value: float, checks: dict[str, float], confidence: float) -> list[str]:
    """The reasons, besides a certified epsilon above the bound, to call the implementation broken."""
    alarms = []
    if p_value < (1 - confidence) / 2:
        alarms.append(
            "broken: under the guarantee's own trade-off curve so many right bets have probability "
            f"{p_value:.2g} at most"
        )
    if checks.get("noise_p_value", 1.0) < ALARM:
        alarms.append(f"broken: the noise is {checks['noise_std']:.3f} times what is declared")
    if checks.get("repeated_noise_p_value", 1.0) < ALARM:
        alarms.append(
            f"broken: the noise repeats itself over the steps (p {checks['repeated_noise_p_value']:.2g})"
        )
    if checks.get("longest_contribution", 0.0) > 1 + ROUNDING:
        alarms.append(
            f"broken: a record added {checks['longest_contribution']:.3f} times what clipping allows"
        )
    if checks.get("even_batches_p_value", 1.0) < ALARM:
        alarms.append(
            "broken: batches are more even than Poisson sampling makes them "
            f"(p {checks['even_batches_p_value']:.2g})"
        )
    return alarms


def _notes(bets: Bets, on: str, canaries: int, guesses: int, *, private: bool) -> str:
    planned = "planned from the guarantee alone" if private else "planned for a mechanism that hides little"
    fixed = planned if bets.guesses is None else "fixed by the attack beforehand"
    return (
        f"{guesses} bets on {canaries} {_NAMES[on]}, their number {fixed}; a one-sided certificate, within "
        "the Gaussian family (f-DP), where steinke's holds of every mechanism"
    )
