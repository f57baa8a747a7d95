"""Attribute inference: what does a record hold in the column that was kept back?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from dptrain.config import Evidence
from dptrain.contracts import (
    Attempt,
    Attributes,
    ConfigError,
    DataError,
    Detectable,
    Guarantee,
    Interval,
    Leakage,
    Records,
    Scored,
    Scoring,
    Sensitive,
    Splits,
    Targets,
)
from dptrain.contracts.rounding import rounded_up
from dptrain.evaluation.games.probed import OnProbes
from dptrain.evidence.intervals import clopper_pearson, detection_limit
from dptrain.evidence.paired import mcnemar, paired_proportions
from dptrain.evidence.probes import ProbeAssignment
from dptrain.evidence.verdict import BEYOND_DOUBT, beside, by_test, reading


@dataclass(frozen=True, kw_only=True)
class AttributeInference(OnProbes):
    """The attack sees the probes but for one sensitive column, and names its value."""

    findings: ClassVar[type] = Attributes

    evidence: Evidence

    def prepare(self, splits: Splits, *, key: bytes) -> tuple[Splits, None]:  # noqa: ARG002
        if not splits.sensitive:
            raise ConfigError(
                f"attack=attribute_inference needs a sensitive column, and data `{splits.name}` declares "
                "none; give data.sensitive, or leave the attack out"
            )
        return splits, None

    def public(self, splits: Splits, assigned: ProbeAssignment) -> Targets:
        probes = assigned.probes
        subjects = {
            column.name: Records(column.hide(probes.inputs), probes.labels) for column in splits.sensitive
        }
        return Targets.of(splits, sensitive=splits.sensitive, subjects=subjects)

    def detectable(
        self,
        splits: Splits,
        assigned: ProbeAssignment,
        guarantee: Guarantee,  # noqa: ARG002
    ) -> Iterator[Detectable]:
        each = len(assigned.probes) // 2
        for column in splits.sensitive:
            floor, name = 1 / len(column.values), f"{column.name}.members"
            limit = detection_limit(each, self.evidence.confidence)
            yield Detectable(attack="", metric=name, trials=each, limit=limit, floor=floor, bound=None)

    def score(self, attempt: Attempt[Attributes], scoring: Scoring) -> Scored:
        sensitive, assigned, confidence = scoring.splits.sensitive, scoring.assigned, self.evidence.confidence
        lines = score_attributes(
            attempt, sensitive, assigned.probes, assigned.members, scoring.guarantee, confidence=confidence
        )
        return Scored(leakage=lines)


def score_attributes(
    attempt: Attempt[Attributes],
    sensitive: tuple[Sensitive, ...],
    probes: Records,
    members: Tensor,
    guarantee: Guarantee,
    *,
    confidence: float,
) -> list[Leakage]:
    """Two lines a sensitive column: advantage over imputation on members, and members against non-members.

    `probes` are whole, with their true values; `members` (probes,) bool are those trained on. Naming the
    value rightly is itself a membership test, members its true positives and non-members its false ones,
    so that the guarantee bounds the second line; none bounds the first, for what a model teaches about
    everybody is no record's secret. Raises DataError if all were assigned alike.
    """
    if bool(members.all()) or not bool(members.any()):
        raise DataError(
            f"all {len(members)} probes are {'members' if bool(members.all()) else 'non-members'}: "
            f"attribute inference has nothing to compare; raise evidence.probes"
        )
    lines: list[Leakage] = []
    for column in sensitive:
        truth = column.read(probes.inputs)
        hit = _right(attempt.found, column, truth)
        control = None if attempt.control is None else _right(attempt.control, column, truth)
        lines += [
            _advantage(column, hit, control, members, confidence),
            _on_members(column, hit, control, members, guarantee, confidence),
        ]
    return [replace(line, attack=attempt.attack, interface=attempt.interface) for line in lines]


Right = tuple[Tensor, Tensor]  # whether attack and imputation named each probe's value: (probes,) bool


def _right(found: Attributes, column: Sensitive, truth: Tensor) -> Right:
    return found.guesses[column.name] == truth, found.imputed[column.name] == truth


def _advantage(
    column: Sensitive, hit: Right, control_hit: Right | None, members: Tensor, confidence: float
) -> Leakage:
    guessed, imputed = hit[0][members], hit[1][members]
    value, p = paired_difference(guessed, imputed, confidence)
    control = control_p = None
    if control_hit is not None:
        control, control_p = paired_difference(control_hit[0][members], control_hit[1][members], confidence)
    trials, missed, level = len(guessed), int((~imputed).sum()), (1 - confidence) / 2
    word = reading(
        above_floor=p < level,
        control_above_floor=None if control_p is None else control_p < level,
        bounded=False,
    )
    best = paired_proportions(missed, 0, trials, confidence).low if mcnemar(missed, 0) < level else 0.0
    details = {} if control_p is None else {"control_p_value": control_p}
    return Leakage(
        attack="",
        metric=f"{column.name}.advantage",
        value=value,
        floor=0.0,
        control=control,
        bound=None,
        detection_limit=best,
        verdict=by_test(
            word,
            p,
            found="right more often than imputation",
            not_found="right no more often than imputation, beyond chance",
        ),
        trials=trials,
        confidence=confidence,
        notes=(
            f"accuracy on {trials} members less that of imputation, paired (Tango's score interval, which is "
            f"approximate). McNemar's exact test of the {int((guessed != imputed).sum())} records on which "
            f"they differ decides, one-sided, below p = {level:.3g}: where few differ, it may find nothing "
            "although the interval lies above 0. No bound: what a model teaches about everybody counts here "
            "too"
        ),
        details={
            "accuracy": float(guessed.double().mean()),
            "imputation_accuracy": float(imputed.double().mean()),
            "attack_alone_right": float((guessed & ~imputed).sum()),
            "imputation_alone_right": float((imputed & ~guessed).sum()),
            "values": float(len(column.values)),
            "p_value": p,
            **details,
        },
    )


def _on_members(
    column: Sensitive,
    hit: Right,
    control_hit: Right | None,
    members: Tensor,
    guarantee: Guarantee,
    confidence: float,
) -> Leakage:
    guessed, imputed = hit
    value, others = (_accuracy(guessed[who], confidence) for who in (members, ~members))
    control = control_others = None
    if control_hit is not None:
        control, control_others = (_accuracy(control_hit[0][who], confidence) for who in (members, ~members))
    bound = guarantee.membership_tpr(others.high) if math.isfinite(guarantee.epsilon()) else None
    word = reading(
        above_floor=value.low > others.high,
        control_above_floor=(
            None if control is None or control_others is None else control.low > control_others.high
        ),
        bounded=bound is not None,
    )
    if bound is not None:
        least, most = (_accuracy(guessed[who], BEYOND_DOUBT) for who in (members, ~members))
        broken = least.low > guarantee.membership_tpr(most.high)
        word = beside(value.low > bound, word, beyond_doubt=broken)
    details = {
        "members": float(members.sum()),
        "non_members": float((~members).sum()),
        "non_member_accuracy": others.value,
        "non_member_accuracy_high": others.high,
        "imputation_accuracy": float(imputed[members].double().mean()),
        "non_member_imputation_accuracy": float(imputed[~members].double().mean()),
    }
    if control_others is not None:
        details["control_non_member_accuracy"] = control_others.value
        details["control_non_member_accuracy_high"] = control_others.high
    return Leakage(
        attack="",
        metric=f"{column.name}.members",
        value=value,
        floor=others.value,
        control=control,
        bound=bound,
        detection_limit=detection_limit(int(members.sum()), confidence),
        verdict=word,
        trials=int(members.sum()),
        confidence=confidence,
        notes=(
            f"accuracy on {int(members.sum())} members; the baseline is that on {int((~members).sum())} "
            f"non-members, and only above its interval's upper end, {rounded_up(others.high, 3)}, is it "
            f"called a leak (the control: above its own). The bound is the most true positives at that many "
            "false ones"
        ),
        details=details,
    )


def _accuracy(right: Tensor, confidence: float) -> Interval:
    return clopper_pearson(int(right.sum()), len(right), confidence)


def paired_difference(first: Tensor, second: Tensor, confidence: float) -> tuple[Interval, float]:
    """How much more often the first is right than the second on the same records, (N,) bool each.

    With the p-value of its being no more often right: that is exact, and the interval approximate.
    """
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return paired_proportions(gained, lost, len(first), confidence), mcnemar(gained, lost)
