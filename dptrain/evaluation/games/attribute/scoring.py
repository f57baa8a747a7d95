"""Scores attribute inference: better than imputation, and better on members than on others?"""

from __future__ import annotations

import math

from torch import Tensor

from dptrain.contracts import Attributes, DataError, Guarantee, Interval, Leakage, Records, Sensitive
from dptrain.evidence.intervals import clopper_pearson, detection_limit
from dptrain.evidence.verdict import BROKEN, reading, verdict


def score_attributes(
    attack: str,
    released: Attributes,
    control: Attributes | None,
    sensitive: tuple[Sensitive, ...],
    probes: Records,
    members: Tensor,
    guarantee: Guarantee,
    *,
    confidence: float,
    interface: str = "",
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
        hit = _right(released, column, truth)
        control_hit = None if control is None else _right(control, column, truth)
        lines += [
            _advantage(attack, column, hit, control_hit, members, confidence, interface),
            _on_members(attack, column, hit, control_hit, members, guarantee, confidence, interface),
        ]
    return lines


Right = tuple[Tensor, Tensor]  # whether attack and imputation named each probe's value: (probes,) bool


def _right(found: Attributes, column: Sensitive, truth: Tensor) -> Right:
    return found.guesses[column.name] == truth, found.imputed[column.name] == truth


def _advantage(
    attack: str,
    column: Sensitive,
    hit: Right,
    control_hit: Right | None,
    members: Tensor,
    confidence: float,
    interface: str,
) -> Leakage:
    guessed, imputed = hit[0][members], hit[1][members]
    value = paired_difference(guessed, imputed, confidence)
    control = (
        None
        if control_hit is None
        else paired_difference(control_hit[0][members], control_hit[1][members], confidence)
    )
    trials = len(guessed)
    missed = int((~imputed).sum())
    return Leakage(
        attack=attack,
        metric=f"{column.name}.advantage",
        value=value,
        floor=0.0,
        control=control,
        bound=None,
        detection_limit=missed / trials * _sign(missed, missed, confidence).low if missed else 0.0,
        verdict=verdict(value=value, floor=0.0, control=control, bound=None),
        trials=trials,
        confidence=confidence,
        interface=interface,
        notes=(
            f"accuracy on {trials} members less that of imputation, paired: exact for the "
            f"{int((guessed != imputed).sum())} records on which they differ, given their number. No bound: "
            "what a model teaches about everybody counts here too"
        ),
        details={
            "accuracy": float(guessed.double().mean()),
            "imputation_accuracy": float(imputed.double().mean()),
            "attack_alone_right": float((guessed & ~imputed).sum()),
            "imputation_alone_right": float((imputed & ~guessed).sum()),
            "values": float(len(column.values)),
        },
    )


def _on_members(
    attack: str,
    column: Sensitive,
    hit: Right,
    control_hit: Right | None,
    members: Tensor,
    guarantee: Guarantee,
    confidence: float,
    interface: str,
) -> Leakage:
    guessed, imputed = hit
    value, others = (_accuracy(guessed[who], confidence) for who in (members, ~members))
    control = None if control_hit is None else _accuracy(control_hit[0][members], confidence)
    control_others = None if control_hit is None else _accuracy(control_hit[0][~members], confidence)
    bound = guarantee.membership_tpr(others.high) if math.isfinite(guarantee.epsilon()) else None
    if bound is not None and value.low > bound:
        word = BROKEN
    else:
        word = reading(
            above_floor=value.low > others.high,
            control_above_floor=(
                None if control is None or control_others is None else control.low > control_others.high
            ),
            bounded=bound is not None,
        )
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
        attack=attack,
        metric=f"{column.name}.members",
        value=value,
        floor=others.value,
        control=control,
        bound=bound,
        detection_limit=detection_limit(int(members.sum()), confidence),
        verdict=word,
        trials=int(members.sum()),
        confidence=confidence,
        interface=interface,
        notes=(
            f"accuracy on {int(members.sum())} members; the floor is that on {int((~members).sum())} "
            f"non-members, and only above its interval's upper end, {others.high:.3f}, is it called a leak "
            f"(the control: above its own). The bound is the most true positives at that many false ones"
        ),
        details=details,
    )


def _accuracy(right: Tensor, confidence: float) -> Interval:
    return clopper_pearson(int(right.sum()), len(right), confidence)


def paired_difference(first: Tensor, second: Tensor, confidence: float) -> Interval:
    """How much more often the first is right than the second on the same records, (N,) bool each.

    Given on how many records they differ, the first is alone right on a binomial number of
    them; its exact interval, carried over to the difference, lies above zero exactly when McNemar's
    exact test rejects (McNemar 1947). Where they never differ, the ends are what so many records
    leave open either way.
    """
    differ = int((first != second).sum())
    if differ == 0:
        open_ = clopper_pearson(0, len(first), confidence).high
        return Interval(value=0.0, low=-open_, high=open_)
    share = differ / len(first)
    sign = _sign(int((first & ~second).sum()), differ, confidence)
    return Interval(value=share * sign.value, low=share * sign.low, high=share * sign.high)


def _sign(successes: int, trials: int, confidence: float) -> Interval:
    """A proportion from -1 (never) by 0 (half) to 1 (always)."""
    ends = clopper_pearson(successes, trials, confidence)
    return Interval(value=2 * ends.value - 1, low=2 * ends.low - 1, high=2 * ends.high - 1)
