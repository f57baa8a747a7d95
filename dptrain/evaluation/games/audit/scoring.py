"""Scores one-run audits: what bets certify beside what is proved, and what was seen of the mechanism."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.signal import fftconvolve
from scipy.stats import binom, chi2
from torch import Tensor

from dptrain.contracts import (
    Attempt,
    Bets,
    ConfigError,
    Detectable,
    Guarantee,
    Interval,
    Leakage,
    NoiseSeen,
    SamplingSeen,
    Scored,
    Scoring,
)
from dptrain.evidence.intervals import delong
from dptrain.evidence.one_run import (
    certified_gaussian,
    certified_independent,
    certified_steinke,
    p_value_f,
    planned_guesses,
)
from dptrain.evidence.verdict import BY_CHANCE, beside, of_intervals

UNPROVED_MU = 10.0  # what bets are planned for where nothing is proved
ALARM = 1e-6  # a p-value of noise or batches below this is no accident
ROUNDING = 1e-3  # relative, of sums in single precision

_NAMES = {"probes": "natural records", "canaries": "canaries"}  # of what was assigned


def score_audit(
    attempt: Attempt[Bets],
    members: Tensor,
    guarantee: Guarantee,
    *,
    on: str,
    rng: torch.Generator,
    confidence: float,
) -> Leakage:
    """The epsilon that an attack's bets certify, beside the control's and the one proved.

    Bets are `on` probes or canaries, of which `members` (records,) bool took part. The implementation is
    broken where so many right bets are too improbable under this run's own trade-off curve, where the
    noise is too small or repeats itself, where a record adds more than clipping allows, or where batches
    (counted on the control, where no noise hides them) are more even than Poisson sampling makes them.
    Raises ConfigError where the attack asks for a number of bets that cannot be split over both ends.
    """
    released, control = attempt.found, attempt.control
    private = math.isfinite(guarantee.epsilon())
    guesses = _guesses(
        attempt.attack, released, len(members), guarantee.mu if private else UNPROVED_MU, confidence
    )
    correct = bet(released.scores, members, guesses, rng)

    def certified(right: int) -> Interval:
        epsilon = certified_gaussian(right, guesses, len(members), guarantee.delta, confidence)
        return Interval(value=epsilon, low=epsilon, high=math.inf)

    value = certified(correct)
    control_value = None if control is None else certified(bet(control.scores, members, guesses, rng))
    bound = guarantee.epsilon() if private else None
    p_value = p_value_f(correct, guesses, len(members), guarantee.membership_tpr) if private else 1.0
    checks = mechanism_checks(released, control, members) if private else {}
    alarms = _alarms(p_value, checks)
    found = of_intervals(value=value, floor=0.0, control=control_value, bounded=private)
    # What is proved is a curve, and the certificate is within the Gaussian family: the curve decides.
    found = beside(p_value < (1 - confidence) / 2, found, beyond_doubt=bool(alarms))
    return Leakage(
        attack=attempt.attack,
        metric="certified_epsilon",
        value=value,
        floor=0.0,
        control=control_value,
        bound=bound,
        detection_limit=certified(guesses).value,
        verdict=found,
        trials=guesses,
        confidence=confidence,
        interface=attempt.interface,
        notes="; ".join([*alarms, _notes(released, on, len(members), guesses, private=private)]),
        details={
            **_certificates(on, correct, guesses, len(members), guarantee.delta, confidence),
            "correct": float(correct),
            "guesses": float(guesses),
            "canaries": float(len(members)),
            "p_value_of_guarantee": p_value,
            "auc": auc(released.scores, members),
            **checks,
        },
    )


def detectable(coins: int, guarantee: Guarantee, *, confidence: float) -> Detectable:
    """What right bets alone would certify, as many as are planned for so many coins."""
    private = math.isfinite(guarantee.epsilon())
    guesses = planned_guesses(guarantee.mu if private else UNPROVED_MU, coins, confidence)
    return Detectable(
        attack="",
        metric="certified_epsilon",
        trials=guesses,
        limit=certified_gaussian(guesses, guesses, coins, guarantee.delta, confidence),
        floor=0.0,
        bound=guarantee.epsilon() if private else None,
    )


def score_bets(attempt: Attempt[Bets], scoring: Scoring, *, on: str, confidence: float) -> Scored:
    """The line of an attack that bets on probes or canaries."""
    rng, members = scoring.streams.seeded(f"judge/{attempt.attack}"), scoring.assigned.members
    line = score_audit(attempt, members, scoring.guarantee, on=on, rng=rng, confidence=confidence)
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


def _certificates(on: str, *bets: Any) -> dict[str, float]:
    """What bets certify of every mechanism and, of canaries with a coordinate each, of independent noise."""
    found = {"steinke": certified_steinke(*bets)}
    return found if on != "canaries" else {**found, "certified_if_independent": certified_independent(*bets)}


def _guesses(attack: str, bets: Bets, canaries: int, mu: float, confidence: float) -> int:
    if bets.guesses is None:
        return planned_guesses(mu, canaries, confidence)
    if bets.guesses % 2 or not 2 <= bets.guesses <= canaries:
        raise ConfigError(
            f"attack.{attack}.guesses={bets.guesses} must be an even number from 2 to the {canaries} that "
            "were assigned at random, or null to have it planned"
        )
    return bets.guesses


def _alarms(p_value: float, checks: dict[str, float]) -> list[str]:
    """The reasons to call the implementation broken."""
    alarms = []
    if p_value < BY_CHANCE:
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


BINS = 2**14  # of a sum of squares, up to the one that was seen


def noise_p_values(noise: NoiseSeen) -> dict[str, float]:
    """How probable so little noise is under an honest mechanism, and sums over the steps so large.

    Sums of squares of standard normals are chi-square; noise that is drawn once and used again
    adds up over the steps faster than their square root.
    """
    drawn = noise.steps * noise.coordinates
    return {
        "noise_std": math.sqrt(noise.each),
        "noise_p_value": float(chi2.cdf(noise.each * drawn, drawn)),
        "repeated_noise_p_value": float(chi2.sf(noise.summed * noise.coordinates, noise.coordinates)),
    }


def sampling_p_value(sampling: SamplingSeen, members: Tensor) -> float:
    """How probable it is that Poisson sampling uses the members so evenly.

    Batches dealt from a shuffled deck give every member the same count, give or take one. Counts are
    binomial; the sum of their squared deviations is compared with its own distribution, convolved
    exactly but for rounding squares down, which errs upwards: few members that happen to meet
    the expected count are no sign of anything, as chi-square would have it.
    """
    counts = sampling.counts[members].double()
    expected = sampling.steps * sampling.sample_rate
    spread = expected * (1 - sampling.sample_rate)
    if expected < 1.0 or spread == 0.0 or len(counts) == 0:
        return 1.0  # so rare that chi-square is no match, and that nobody could tell
    times = np.arange(sampling.steps + 1)
    seen = float((counts - expected).square().sum())
    unit = max(seen, expected) / BINS
    squares = np.floor((times - expected) ** 2 / unit)
    near = squares <= seen / unit  # who is farther off alone is farther off together
    odds = binom.pmf(times[near], sampling.steps, sampling.sample_rate)
    one = np.bincount(squares[near].astype(int), odds, minlength=BINS + 1)
    return float(min(1.0, _convolved(one, len(counts))[: int(seen / unit) + 1].sum()))


def _convolved(odds: np.ndarray, count: int) -> np.ndarray:
    """The distribution of the sum of `count` numbers with these odds, as far as the odds go."""
    together = np.zeros_like(odds)
    together[0] = 1.0
    while count:
        if count % 2:
            together = np.clip(fftconvolve(together, odds)[: len(odds)], 0.0, None)
        odds, count = np.clip(fftconvolve(odds, odds)[: len(odds)], 0.0, None), count // 2
    return together


def mechanism_checks(released: Bets, control: Bets | None, members: Tensor) -> dict[str, float]:
    """What the attack saw of the mechanism's parts, beside its bets."""
    found = {} if released.noise is None else noise_p_values(released.noise)
    if released.longest is not None:
        found["longest_contribution"] = released.longest
    if control is not None and control.sampling is not None:
        found["even_batches_p_value"] = sampling_p_value(control.sampling, members)
    return found
