"""One leakage line in words, made from the numbers that stand on it, so that the two never disagree."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from dptrain.contracts import Interval, Leakage
from dptrain.evidence.verdict import (
    ABOVE,
    BROKEN,
    LEAKS,
    NO_CONTROL,
    NOT_SHOWN,
    OF_VOID,
    RESISTED,
    TOO_WEAK,
    UNBOUNDED,
    WITHIN,
    kind,
)
from dptrain.report import words

METRICS = {
    "auc": "AUC",
    "certified_epsilon": "certified ε",
    "evaluator_accuracy": "recognised by another model",
    "nearest_is_member": "nearest to a member",
    "success": "records named",
}
FEWEST_DIGITS, MOST_DIGITS = 3, 9
# Verdicts without a reason of their own: theirs is read off the numbers.
BARE = (BROKEN, ABOVE, WITHIN, UNBOUNDED, OF_VOID, RESISTED, TOO_WEAK, NO_CONTROL)


def readable(line: Leakage) -> Leakage:
    """The same line, its attack and metric named as a person says them."""
    return replace(line, attack=line.attack.replace("_", " "), metric=metric(line))


def metric(line: Leakage) -> str:
    """A metric as a person says it; true positives at the false-positive rate that floor and bound hold at.

    That is the largest that the attack's threshold may have on records that did not set it, and not the
    one that was asked for.
    """
    return readable_metric(line.metric, line.details.get("fpr_upper"))


def readable_metric(name: str, fpr: float | None = None) -> str:
    """The same of a metric's name, and the false-positive rate that its bound holds at, where it is known."""
    asked = re.fullmatch(r"tpr_at_fpr_([\d.]+)", name)
    if asked is None:
        return METRICS.get(name, name.replace("_", " "))
    if fpr is None:
        return f"true positives at the FPR of {words.percent(float(asked[1]))} asked for"
    return f"true positives at an FPR up to {words.percent_at_most(fpr)}"


def named(line: Leakage) -> str:
    """A metric by the name that other programs know it by, and the false-positive rate that it is read at."""
    fpr = line.details.get("fpr_upper")
    if fpr is None or not line.metric.startswith("tpr_at_fpr_"):
        return line.metric
    return f"TPR at FPR up to {words.percent_at_most(fpr)} ({line.metric})"


def digits(line: Leakage) -> int:
    """Decimals that a line's numbers are told to: three, or as many as show what lies above what.

    Rounded, the lower end of a leak might read as its baseline, that of a breach as its bound.
    """
    found = kind(line.verdict) in (LEAKS, ABOVE, BROKEN)
    for count in range(FEWEST_DIGITS, MOST_DIGITS):
        floor, low = _told(words.number(line.floor, count)), _told(words.low_end(line.value.low, count))
        centre = _told(words.centre(line.value, count))
        above_bound = line.bound is not None and line.value.low > line.bound
        if (
            (low > floor or not line.value.low > line.floor)
            and (centre > floor or not (found and line.value.value > line.floor))
            and (not above_bound or low > _told(words.bound(line.bound, count)))
        ):
            return count
    return MOST_DIGITS


def _told(text: str) -> float:
    """The number that a text reads as."""
    return float(text.replace(",", "").replace("∞", "inf").replace("undefined", "nan"))


def sentence(line: Leakage, *, void: bool) -> str:
    """One leakage line as a sentence or two."""
    shown = digits(line)
    text = (
        f"**{line.attack}**, {named(line)}: {words.measured(line.value, shown)}, baseline "
        f"{words.number(line.floor, shown)}"
    )
    if line.control is not None:
        text += f", control model {words.measured(line.control, shown)}"
    text += f". {meaning(line)}"
    if void:
        return text
    if line.bound is None:
        return text if UNBOUNDED in line.verdict else f"{text} No theorem bounds this metric."
    text = f"{text} Proved bound: {words.at_most(line.bound, shown)}"
    standing = beside_bound(line)
    return f"{text}; {standing}." if standing else f"{text}."


def meaning(line: Leakage) -> str:
    """What follows from a line's verdict, and why: its own reason, or the one that its numbers give."""
    found, own = kind(line.verdict), reason(line.verdict)
    if found == BROKEN:
        return "**More than the guarantee allows: the implementation is broken. Do not release this model.**"
    if found in (LEAKS, ABOVE):
        return _sentence(line.verdict)
    if found == NOT_SHOWN:
        return f"{_sentence(line.verdict)} What it would have found in the rest is not known."
    if found == RESISTED:
        if own:
            return f"Resisted: {own}."
        return (
            "The attack works on the control model; here its interval does not lie above "
            f"{_threshold(line)}, so no leakage is shown."
        )
    if found == TOO_WEAK:
        return f"Too weak to tell: {own or weakness(line)}. This is no evidence of privacy."
    if found == NO_CONTROL:
        nothing = own or f"its interval does not lie above {_threshold(line)}"
        return _sentence(f"{nothing}; with no control, one cannot know whether it could have")
    return f"{line.verdict}."


def explained_verdict(line: Leakage) -> str:
    """A line's verdict with its reason, where that is read off the numbers."""
    return f"{line.verdict}: {weakness(line)}" if line.verdict == TOO_WEAK else line.verdict


def reason(verdict: str) -> str:
    """A verdict's own reason; empty where it gives none."""
    if verdict in BARE:
        return ""
    if kind(verdict) == NO_CONTROL:
        return verdict.removesuffix(", no control")
    return verdict.partition(": ")[2]


def weakness(line: Leakage) -> str:
    """Why a line that is called too weak is: too few trials, or a control that does not stand out."""
    if line.detection_limit <= line.floor:
        return (
            f"with {line.trials:,} trials even an attack that is always right certifies at most "
            f"{words.low_end(line.detection_limit)}, and the baseline is {words.number(line.floor)}"
        )
    if line.control is None:
        return "there is no control"
    return f"on the control model its interval does not lie above {_threshold(line, control=True)} either"


def beside_bound(line: Leakage) -> str:
    """How a measured value above its bound can be right; empty where it is not above, or is a breach."""
    if kind(line.verdict) == ABOVE:
        return once_more(line)
    if line.bound is None or not line.value.value > line.bound or kind(line.verdict) == BROKEN:
        return ""
    if line.value.low <= line.bound:
        return "the measured value is compatible with it, since its interval reaches down to it"
    return "the certificate is within one family of curves; the proved curve decides, and allows it"


def once_more(line: Leakage) -> str:
    """What a value above its bound, but not beyond doubt, asks for."""
    honest = round(2 / (1 - line.confidence))
    return (
        f"by chance an honest run shows so much in one of {honest} measurements at most, a broken one every "
        "time: train and attack once more before anything is released"
    )


def compatible(
    value: Interval, bound: float | None, said: Callable[[float], str] = words.percent_at_most
) -> str:
    """What follows a value that is above its bound, but not by more than chance; else nothing.

    >>> compatible(Interval(value=0.417, low=0.199, high=0.661), 0.3935)
    ', compatible with the bound of 39.4 %'
    """
    if bound is None or not value.low <= bound < value.value:
        return ""
    return f", compatible with the bound of {said(bound)}"


def _threshold(line: Leakage, *, control: bool = False) -> str:
    """What an interval must lie above to be called leakage."""
    name = "control_non_member_accuracy_high" if control else "non_member_accuracy_high"
    if (most := line.details.get(name)) is not None:
        whose = "its own" if control else "the"
        return f"the {words.high_end(most)} that {whose} non-members may reach"
    return f"the baseline, {words.number(line.floor)}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
