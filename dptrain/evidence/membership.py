"""Membership inference, judged: the area under the curve, and the true positives at few false ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, logit
from scipy.stats import beta, norm, rankdata
from torch import Tensor

from dptrain.contracts import Exposed, Guarantee, Interval, Leakage, Scores
from dptrain.evidence.intervals import clopper_pearson, detection_limit, proportion
from dptrain.evidence.probes import Drawing
from dptrain.evidence.verdict import verdict

FALSE_POSITIVE_RATES = (0.01, 0.001)
# Where k probes alone stand out of n members and n non-members, an AUC has variance k / (4 n^2).
# For fewer than eight, the normal approximation raises false alarms: 6 % of them for k = 4.
LEAST_VARIANCE = 8 / 4  # times n^2


def judge_membership(
    attack: str,
    released: Scores,
    control: Scores | None,
    members: Tensor,
    guarantee: Guarantee,
    *,
    confidence: float,
    interface: str = "",
) -> list[Leakage]:
    """The AUC, and the TPR at each FPR that the number of non-members can resolve.

    `members` (probes,) bool are the coins. Blind scores have an AUC of one half, and a TPR that
    equals the FPR. Probes are taken as independent given the release.
    """
    count, strangers = int(members.sum()), int((~members).sum())
    private = math.isfinite(guarantee.epsilon())
    resolved = [rate for rate in FALSE_POSITIVE_RATES if _allowed(rate, strangers) >= 1]
    notes = [f"{count} members, {strangers} non-members, taken as independent given the release"]
    notes += [
        f"TPR at FPR {100 * rate:g} % needs at least {round(1 / rate):,} non-members, there are {strangers:,}"
        for rate in FALSE_POSITIVE_RATES
        if rate not in resolved
    ]
    value = auc(released.scores, members, confidence)
    twin = None if control is None else auc(control.scores, members, confidence)
    bound = auc_bound(guarantee) if private else None
    area = Leakage(
        attack=attack,
        metric="auc",
        value=value,
        floor=0.5,
        control=twin,
        bound=bound,
        detection_limit=detection_limit(min(count, strangers), confidence),
        verdict=verdict(value=value, floor=0.5, control=twin, bound=bound),
        trials=len(members),
        confidence=confidence,
        interface=interface,
        notes="; ".join(notes),
        details={"members": float(count), "non_members": float(strangers)},
    )
    rates = [
        _at_rate(attack, released, control, members, guarantee, rate, confidence, interface)
        for rate in resolved
    ]
    return [area, *rates]


def _at_rate(
    attack: str,
    released: Scores,
    control: Scores | None,
    members: Tensor,
    guarantee: Guarantee,
    rate: float,
    confidence: float,
    interface: str,
) -> Leakage:
    """The TPR at this FPR, beside what is proved at the largest FPR that the threshold may have."""
    found = caught(released.scores, members, rate, confidence)
    value = clopper_pearson(found.true_positives, found.members, confidence)
    twin = None
    if control is not None:
        other = caught(control.scores, members, rate, confidence)
        twin = clopper_pearson(other.true_positives, other.members, confidence)
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
        attack=attack,
        metric=f"tpr_at_fpr_{rate:g}",
        value=value,
        floor=found.fpr_upper,
        control=twin,
        bound=bound,
        detection_limit=detection_limit(found.members, confidence),
        verdict=verdict(value=value, floor=found.fpr_upper, control=twin, bound=bound),
        trials=found.members,
        confidence=confidence,
        interface=interface,
        notes=(
            f"{found.true_positives} of {found.members} members and {found.false_positives} of "
            f"{found.non_members} non-members score above the threshold (FPR {found.fpr_realised:.2%}); its "
            f"FPR on others is at most {found.fpr_upper:.2%}, where floor and bound are read"
        ),
        details=details,
    )


@dataclass(frozen=True, kw_only=True)
class Caught:
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


def caught(scores: Tensor, members: Tensor, rate: float, confidence: float) -> Caught:
    """Count who scores above the (k+1)-th highest of n non-members, k = floor(rate n).

    At most k non-members do, fewer where scores are tied. Over draws of the non-members, the
    share of all strangers above that threshold is Beta(k + 1, n - k) distributed whatever the
    scores' distribution, and stochastically less where it has atoms (Wilks 1941).
    """
    inside, outside = scores[members], scores[~members]
    allowed = _allowed(rate, len(outside))
    threshold = outside.sort(descending=True).values[allowed]
    tail = (1 - confidence) / 2
    return Caught(
        true_positives=int((inside > threshold).sum()),
        false_positives=int((outside > threshold).sum()),
        members=len(inside),
        non_members=len(outside),
        fpr_upper=float(beta.ppf(1 - tail, allowed + 1, len(outside) - allowed)),
    )


def _allowed(rate: float, strangers: int) -> int:
    """How many of the non-members may be false positives."""
    return math.floor(rate * strangers)


def auc(scores: Tensor, members: Tensor, confidence: float) -> Interval:
    """The area under the ROC curve, with DeLong's interval on the logit scale.

    Where about eight probes or fewer decide (near 0 and 1, among few probes, or where most are
    tied) the normal approximation fails. The interval is then that of a proportion among as many
    trials as the rarer side has probes, whose variance is the largest that an AUC can have
    (Birnbaum and Klose 1957).
    """
    area, variance = delong(scores, members)
    fewest = min(int(members.sum()), int((~members).sum()))
    if not variance * fewest**2 > LEAST_VARIANCE:
        return proportion(area * fewest, fewest, confidence)
    reach = norm.ppf((1 + confidence) / 2) * math.sqrt(variance) / (area * (1 - area))
    return Interval(value=area, low=float(expit(logit(area) - reach)), high=float(expit(logit(area) + reach)))


def delong(scores: Tensor, members: Tensor) -> tuple[float, float]:
    """The AUC, ties counted half, and its variance (DeLong et al. 1988) by midranks (Sun and Xu 2014)."""
    inside, outside = scores[members].double().numpy(), scores[~members].double().numpy()
    ranks = rankdata(np.concatenate([inside, outside]))
    beats = (ranks[: len(inside)] - rankdata(inside)) / len(outside)  # share of non-members below each member
    beaten = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)
    return float(beats.mean()), float(_variance_of_mean(beats) + _variance_of_mean(beaten))


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def auc_bound(guarantee: Guarantee, points: int = 2000) -> float:
    """The most that any scores' AUC can be: the area under the guarantee's largest TPR, never too low.

    Scores of one training hang together, and so do their ranks among the probes; but the AUC is
    linear in the members' ranks, of each of which the guarantee speaks by itself, so that the
    area is exceeded by a term of order 1 / probes at most.
    """
    rates = np.linspace(0.0, 1.0, points + 1) ** 3  # dense where the curve is steep
    highest = np.array([guarantee.membership_tpr(float(rate)) for rate in rates[1:]])
    return min(1.0, float((highest * np.diff(rates)).sum()))


# --------------------------------------------------------------------------- record by record


def exposure(scores: Mapping[str, Scores], drawing: Drawing) -> tuple[Exposed, ...]:
    """The members among the probes, those first that some attack sees best, and among equals most attacks."""
    members = drawing.members.nonzero().flatten()
    percentiles = {attack: _percentiles(found.scores, drawing.members) for attack, found in scores.items()}
    rows = [
        Exposed(
            record=drawing.origin[probe],
            label=int(drawing.probes.labels[probe]),
            score={attack: float(found.scores[probe]) for attack, found in scores.items()},
            percentile={attack: float(shares[place]) for attack, shares in percentiles.items()},
        )
        for place, probe in enumerate(members.tolist())
    ]
    return tuple(sorted(rows, key=_most_exposed_first))


def _most_exposed_first(row: Exposed) -> tuple[float, float]:
    return -max(row.percentile.values()), -sum(row.percentile.values())


def _percentiles(scores: Tensor, members: Tensor) -> Tensor:
    """Share of the non-members below each member: (members,)."""
    outside = scores[~members].sort().values
    return torch.searchsorted(outside, scores[members]).double() / len(outside)
