"""Membership: was this record trained on?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import beta
from torch import Tensor

from dptrain.config import Evidence
from dptrain.contracts import Attempt, Detectable, Guarantee, Leakage, Scored, Scores, Scoring, Splits
from dptrain.evaluation.games.probed import OnProbes
from dptrain.evidence.intervals import auc, clopper_pearson, detection_limit
from dptrain.evidence.probes import ProbeAssignment
from dptrain.evidence.verdict import BEYOND_DOUBT, verdict


@dataclass(frozen=True, kw_only=True)
class Membership(OnProbes):
    """Every probe is given a score, which should be higher where it was trained on."""

    findings: ClassVar[type] = Scores

    evidence: Evidence

    def detectable(
        self,
        splits: Splits,  # noqa: ARG002
        assigned: ProbeAssignment,
        guarantee: Guarantee,
    ) -> Iterator[Detectable]:
        each, confidence = len(assigned.probes) // 2, self.evidence.confidence  # how many are in is a secret
        private = math.isfinite(guarantee.epsilon())
        limit = detection_limit(each, confidence)
        bound = auc_bound(guarantee) if private else None
        yield Detectable(attack="", metric="auc", trials=2 * each, limit=limit, floor=0.5, bound=bound)
        for rate in FALSE_POSITIVE_RATES:
            if _allowed(rate, each) >= 1:
                bound = guarantee.membership_tpr(rate) if private else None
                name = f"tpr_at_fpr_{rate:g}"
                yield Detectable(attack="", metric=name, trials=each, limit=limit, floor=rate, bound=bound)

    def score(self, attempt: Attempt[Scores], scoring: Scoring) -> Scored:
        members, confidence = scoring.assigned.members, self.evidence.confidence
        lines = score_membership(attempt, members, scoring.guarantee, confidence=confidence)
        return Scored(leakage=lines, exposes=attempt.found)


FALSE_POSITIVE_RATES = (0.01, 0.001)


def score_membership(
    attempt: Attempt[Scores], members: Tensor, guarantee: Guarantee, *, confidence: float
) -> list[Leakage]:
    """The AUC, and the TPR at each FPR that the number of non-members can resolve.

    `members` (probes,) bool are those trained on. Blind scores have an AUC of one half, and a TPR that
    equals the FPR. Probes are taken as independent given the release.
    """
    count, others = int(members.sum()), int((~members).sum())
    private = math.isfinite(guarantee.epsilon())
    resolved = [rate for rate in FALSE_POSITIVE_RATES if _allowed(rate, others) >= 1]
    notes = [f"{count} members, {others} non-members, taken as independent given the release"]
    notes += [
        f"TPR at FPR {100 * rate:g} % needs at least {round(1 / rate):,} non-members, there are {others:,}"
        for rate in FALSE_POSITIVE_RATES
        if rate not in resolved
    ]
    control = attempt.control
    value = auc(attempt.found.scores, members, confidence)
    control_value = None if control is None else auc(control.scores, members, confidence)
    bound = auc_bound(guarantee) if private else None
    area = Leakage(
        attack=attempt.attack,
        metric="auc",
        value=value,
        floor=0.5,
        control=control_value,
        bound=bound,
        detection_limit=detection_limit(min(count, others), confidence),
        verdict=verdict(
            value=value,
            floor=0.5,
            control=control_value,
            bound=bound,
            beyond_doubt=bound is not None and auc(attempt.found.scores, members, BEYOND_DOUBT).low > bound,
        ),
        trials=len(members),
        confidence=confidence,
        interface=attempt.interface,
        notes="; ".join(notes),
        details={"members": float(count), "non_members": float(others)},
    )
    return [area, *(_at_rate(attempt, members, guarantee, rate, confidence) for rate in resolved)]


def _at_rate(
    attempt: Attempt[Scores], members: Tensor, guarantee: Guarantee, rate: float, confidence: float
) -> Leakage:
    """The TPR at this FPR, beside what is proved at the largest FPR that the threshold may have."""
    found, control = counts_at(attempt.found.scores, members, rate, confidence), None
    value = clopper_pearson(found.true_positives, found.members, confidence)
    if attempt.control is not None:
        other = counts_at(attempt.control.scores, members, rate, confidence)
        control = clopper_pearson(other.true_positives, other.members, confidence)
    details = {
        "fpr_asked": rate,
        "fpr_realised": found.fpr_realised,
        "false_positives": float(found.false_positives),
        "true_positives": float(found.true_positives),
        "members": float(found.members),
        "non_members": float(found.non_members),
        "fpr_upper": found.fpr_upper,
    }
    bound = None
    if math.isfinite(guarantee.epsilon()):
        bound = guarantee.membership_tpr(found.fpr_upper)
        details["bound_at_fpr_asked"] = guarantee.membership_tpr(rate)
    return Leakage(
        attack=attempt.attack,
        metric=f"tpr_at_fpr_{rate:g}",
        value=value,
        floor=found.fpr_upper,
        control=control,
        bound=bound,
        detection_limit=detection_limit(found.members, confidence),
        verdict=verdict(
            value=value,
            floor=found.fpr_upper,
            control=control,
            bound=bound,
            beyond_doubt=bound is not None and _broken(attempt, members, guarantee, rate),
        ),
        trials=found.members,
        confidence=confidence,
        interface=attempt.interface,
        notes=(
            f"{found.true_positives} of {found.members} members and {found.false_positives} of "
            f"{found.non_members} non-members score above the threshold (FPR {found.fpr_realised:.2%}); its "
            f"FPR on others is at most {found.fpr_upper:.2%}, where baseline and bound are read"
        ),
        details=details,
    )


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts at the lowest threshold that lets through no more non-members than asked for.

    `fpr_upper` is the most that the threshold's FPR may be on records that did not set it.
    """

    true_positives: int
    false_positives: int
    members: int
    non_members: int
    fpr_upper: float

    @property
    def fpr_realised(self) -> float:
        return self.false_positives / self.non_members


def _broken(attempt: Attempt[Scores], members: Tensor, guarantee: Guarantee, rate: float) -> bool:
    """Whether more is found than is proved, as BY_CHANCE alone has it: of the members and of the FPR."""
    found = counts_at(attempt.found.scores, members, rate, BEYOND_DOUBT)
    least = clopper_pearson(found.true_positives, found.members, BEYOND_DOUBT).low
    return least > guarantee.membership_tpr(found.fpr_upper)


def counts_at(scores: Tensor, members: Tensor, rate: float, confidence: float) -> Counts:
    """Count who scores above the (k+1)-th highest of n non-members, k = floor(rate n).

    At most k non-members do, fewer where scores are tied. Over draws of the non-members, the
    share of all non_members above that threshold is Beta(k + 1, n - k) distributed whatever the
    scores' distribution, and stochastically less where it has atoms (Wilks 1941).
    """
    inside, outside = scores[members], scores[~members]
    allowed = _allowed(rate, len(outside))
    threshold = outside.sort(descending=True).values[allowed]
    tail = (1 - confidence) / 2
    return Counts(
        true_positives=int((inside > threshold).sum()),
        false_positives=int((outside > threshold).sum()),
        members=len(inside),
        non_members=len(outside),
        fpr_upper=float(beta.ppf(1 - tail, allowed + 1, len(outside) - allowed)),
    )


def _allowed(rate: float, non_members: int) -> int:
    """How many of the non-members may be false positives."""
    return math.floor(rate * non_members)


def auc_bound(guarantee: Guarantee, points: int = 2000) -> float:
    """The most that any scores' AUC can be: the area under the guarantee's largest TPR, never too low.

    Scores of one training hang together, and so do their ranks among the probes; but the AUC is
    linear in the members' ranks, of each of which the guarantee speaks by itself, so that the
    area is exceeded by a term of order 1 / probes at most.
    """
    rates = np.linspace(0.0, 1.0, points + 1) ** 3  # dense where the curve is steep
    highest = np.array([guarantee.membership_tpr(float(rate)) for rate in rates[1:]])
    return min(1.0, float((highest * np.diff(rates)).sum()))
