"""The sentences of a report, once for every document; marks: `**bold**`, `*emphasis*`, `` `code` ``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from dptrain.contracts import Leakage, Report, Statement
from dptrain.contracts.rounding import rounded_up
from dptrain.evidence.verdict import ABOVE, BROKEN, LEAKS, kind
from dptrain.report import counts, defences, words
from dptrain.report.learned import at_floor, no_better, noise, signal

COPIES = {"train": "training", "holdout": "held-out", "test": "test"}
CAPTIONS = {
    "epsilon": "What had been spent after each step.",
    "utility": "What the model reaches on held-out records in training, and on the test records in the end.",
    "queries": "Class inversion by query: how many inversions another model recognises, against the "
    "queries spent.",
    "costs": "What privacy costs whom: the release beside the control model, by class and subgroup.",
    "calibration": "How often the named class is right, against the confidence in it.",
    "reconstruction": "Attacks on single records beside their baselines, controls and bounds; "
    "and the most that any membership test can do.",
}
CONFIDENTIAL = (
    "**Confidential:** it shows training records. What may be given away is said under *What to do*."
)
LINKED = (
    "shows what was inverted of each class beside the nearest training record. **It contains training "
    "records and is as confidential as they are**, so here it is linked and not shown."
)
INVERSIONS = (
    "**These pictures contain training records and are as confidential as they are.** They are here for the "
    "owner of the records; for others there are `statement.json` and `model_card.md`, which show none."
)
REPETITION = "Noise and sampling are secret, so a repetition agrees within the intervals, not to the digit."
DETAILS = {
    "attack_alone_right": "right where the imputation is wrong",
    "imputation_alone_right": "wrong where the imputation is right",
    "steinke": "ε certified after Steinke et al. (2023)",
    "correct": "correct guesses",
    "fpr_asked": "false-positive rate asked for",
    "fpr_realised": "false-positive rate realised",
    "fpr_upper": "false-positive rate at most",
    "auc": "AUC",
}
UPPER_ENDS = ("_upper", "_high", "bound_at_fpr_asked")
CERTIFICATES = ("steinke", "certified_if_independent")
PARTS = {
    "train": "training",
    "attack": "attacks",
    "twin": "of them the control model",
    "shadow": "shadow models",
    "total": "in all",
}
DEFENDED = f"What each form of output leaves to these attacks. {defences.CAVEAT}"


def main_lines(report: Report) -> list[Leakage]:
    """The leakage lines that every document shows: those not met through a defended interface."""
    return [line for line in report.leakage if defences.shown(line)]


def found(line: Leakage, *kinds: str) -> bool:
    """Whether a line's verdict is of one of these kinds."""
    return kind(line.verdict) in kinds


# ---------------------------------------------------------------------- the verdict


def short(report: Report) -> str:
    """The guarantee, and how many measurements found leakage, in two sentences."""
    statement = report.guarantee
    text = f"Guarantee: {words.budget(statement)}."
    if no_better(report):
        text += f" **{at_floor(report)}**"
    if report.not_run:
        text += (
            f" **{len(report.not_run)} attacks were not run**, see below."
            if len(report.not_run) > 1
            else (" **One attack was not run**, see below.")
        )
    if not report.leakage:
        return text
    lines = main_lines(report)
    leaking = sum(found(line, LEAKS, ABOVE, BROKEN) for line in lines)
    text += f" {leaking} of {len(lines)} measurements found leakage above the baseline"
    text += f" ({by_chance(lines)})" if leaking else ""
    if words.is_private(statement) and not statement.void:
        broken, doubtful = (sum(found(line, word) for line in lines) for word in (BROKEN, ABOVE))
        text += f", **{broken} of them more than is proved**" if broken else ", none more than is proved"
        text += f", **{doubtful} by no more than chance allows**" if doubtful else ""
    return f"{text}."


def by_chance(lines: Sequence[Leakage]) -> str:
    """How many of these measurements would be expected to find leakage where there is none, at most.

    A verdict by a test has a false alarm as often as the line's interval may miss its value, at most; one by
    the lower end of the interval half as often.
    """
    most = rounded_up(round(math.fsum(1 - line.confidence for line in lines), words.SETTLED), 1)
    return f"if nothing leaked, chance alone would be expected to make at most {most} of them say so"


def void(statement: Statement) -> str:
    """Why a void guarantee is one."""
    return f"**VOID**: {statement.void_reason}. This run proves nothing; do not rely on its epsilon."


def holds(statement: Statement) -> bool:
    """Whether anything is promised to anybody."""
    return words.is_private(statement) and not statement.void


def attacks(report: Report) -> str:
    """How measured leakage must be read."""
    if not report.leakage:
        if report.not_run:
            return "No attack could be run to its end, so nothing was measured."
        return "No attack was run, so nothing was measured."
    return (
        "Measured leakage is never a ceiling: a better attack may find more. Only a bound is proved, "
        "and where there is none, no theorem limits the metric."
    )


def not_run(report: Report) -> Iterator[str]:
    """The attacks that could not be judged, and why, one sentence each."""
    for each in report.not_run:
        name = each.attack.replace("_", " ")
        met = "" if each.interface in ("", defences.OPEN) else f", {each.interface.replace('_', ' ')}"
        yield f"{name}{met}: not run: {each.reason}"


def worth(report: Report) -> str:
    """What the model is able to do, beside the baseline and the control model."""
    shown = f" {at_floor(report)}" if no_better(report) else ""
    if shown and (ratio := signal(report.guarantee)) is not None and noise(ratio):
        shown += f" {noise(ratio)}"
    accuracy = report.utility.accuracy
    if report.utility.metric != "accuracy":
        said = f"Its {words.named(report.utility.metric)} on {report.utility.records:,} test records is "
        said += f"{words.measured(accuracy)}; predicting the same of all of them reaches "
        said += words.number(report.floor_accuracy)
        if report.control is not None:
            said += f", and the control model {words.number(report.control.accuracy.value)}"
        return f"{said}.{shown}"
    text = (
        f"It is right on {words.percent(accuracy.value)} of {report.utility.records:,} test records "
        f"(interval {words.percent_at_least(accuracy.low)} to {words.percent_at_most(accuracy.high)}); "
        f"always naming the most frequent class is right on {words.percent(report.floor_accuracy)}"
    )
    if report.control is not None:
        text += f", and the control model on {words.percent(report.control.accuracy.value)}"
    return f"{text}.{shown}"


def confidential(report: Report) -> str:
    """The files that show, name or measure single training records; empty where none does."""
    shown = ["report.html (or .pdf)", "class_inversion.png"] if report.gallery is not None else []
    named = ["exposure.csv"] if report.exposed else []
    measured = ["sensitivity.json"] if audited(report) else []
    return words.listed([*shown, *named, *measured] or [""])


def audited(report: Report) -> bool:
    """Whether sensitivity.json holds how long single records' gradients were."""
    sensitivity = report.guarantee.sensitivity
    return sensitivity is not None and sensitivity.audit is not None


# ---------------------------------------------------------------------- beside the numbers


def data(report: Report) -> str:
    """Which records there were."""
    facts = report.data
    of = f", {facts['classes']} classes" if report.utility.metric == "accuracy" else ""
    doubled = copies(facts.get("copies", {}))  # an older run did not count them
    return (
        f"Data: {facts['name']} ({facts['source']}){of}. "
        f"Records {counts.row(report.counts)}."
        f"{' ' * bool(doubled)}{doubled}"
        f"{''.join(f' {note}' for note in facts.get('notes', ()))}"
    )


def copies(number_by_part: Mapping[str, int]) -> str:
    """How often records occur several times, and what that means for what is proved; empty: none does."""
    found = [
        words.how_many(number_by_part[part], f"{what} record")
        for part, what in COPIES.items()
        if number_by_part.get(part)
    ]
    if not found:
        return ""
    return (
        f"With exactly the inputs of another training record: {words.listed(found)}. The guarantee is for "
        "each copy by itself, and what is measured on copies of training records looks better than it is."
    )


def legend(report: Report) -> str:
    """How the leakage table is read; the report must have leakage lines."""
    return (
        f"Intervals are at {report.leakage[0].confidence:.0%} confidence, each line by itself: among many, "
        "one may err. *Baseline*: the same attack without the model. *Control*: the same attack on a model "
        "trained alike without privacy, which is not released. *Bound*: what is proved about this metric. "
        "*Detection limit*: the most that this attack could have shown with these trials."
    )


def remarks(line: Leakage) -> str:
    """How a line came about, and its further numbers; empty where there is nothing to say."""
    parts = [line.notes] if line.notes else []
    parts += [
        f"{DETAILS.get(name, name.replace('_', ' '))} {_detail(name, value)}"
        for name, value in line.details.items()
    ]
    return "; ".join(parts)


def _detail(name: str, value: float) -> str:
    """A further number: of an interval's upper end no less is told, of a certificate no more."""
    if float(value).is_integer():
        return words.plain(value)
    if name.endswith(UPPER_ENDS):
        return words.high_end(value)
    return words.low_end(value) if name in CERTIFICATES else words.plain(value)


def exposure(report: Report) -> str:
    """What exposure.csv holds, to follow its name."""
    return (
        f"names the {len(report.exposed):,} training records that were put there at random, the most easily "
        "recognised first. **It is as confidential as they are.**"
    )


def seconds(report: Report) -> str:
    """How long each part took."""
    parts = ", ".join(
        f"{PARTS.get(name, name)} {words.duration(value)}" for name, value in report.seconds.items()
    )
    return f"Time taken: {parts}."
