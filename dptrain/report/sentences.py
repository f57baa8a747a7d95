"""The sentences of a report, once for every document; marks: `**bold**`, `*emphasis*`, `` `code` ``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dptrain.contracts import Leakage, Report, Statement
from dptrain.evidence.verdict import BROKEN, LEAKS, NOT_SHOWN, TOO_WEAK, kind
from dptrain.report import defences, words
from dptrain.report.learned import at_floor, no_better, noise, signal

COPIES = {"train": "training records", "holdout": "held-out records", "test": "test records"}
CAPTIONS = {
    "epsilon": "What had been spent after each step.",
    "utility": "Accuracy on held-out records during training, and on the test records in the end.",
    "queries": "Class inversion by query: how many inversions another model recognises, against the "
    "queries spent.",
    "reconstruction": "Attacks on single records beside their floors, controls and bounds; "
    "and the most that any membership test can do.",
}
CONFIDENTIAL = (
    "**Confidential:** it shows training records. Give away `statement.json` and `model_card.md` instead."
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
DEFENDED = f"What each form of output leaves to these attacks. {defences.CAVEAT}"


def main_lines(report: Report) -> list[Leakage]:
    """The leakage lines that every document shows: those not met through a defended interface."""
    return [line for line in report.leakage if defences.shown(line)]


def found(line: Leakage, *kinds: str) -> bool:
    """Whether a line's verdict is of one of these kinds."""
    return kind(line.verdict) in kinds


# ---------------------------------------------------------------------- the verdict


def short(report: Report) -> str:
    """The guarantee, and how many attacks saw something, in two sentences."""
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
    leaking = sum(found(line, LEAKS, BROKEN) for line in lines)
    text += f" {leaking} of {len(lines)} measurements found leakage above the floor"
    if words.is_private(statement) and not statement.void:
        broken = sum(found(line, BROKEN) for line in lines)
        text += f", **{broken} of them more than is allowed**" if broken else ", none more than is allowed"
    return f"{text}."


def void(statement: Statement) -> str:
    """Why a void guarantee is one."""
    return f"**VOID**: {statement.void_reason}. This run proves nothing; do not rely on its epsilon."


def promise(statement: Statement) -> str:
    """What is promised, and what follows from it for membership tests."""
    if not holds(statement):
        return statement.sentence
    tests = ", or more than ".join(
        f"{words.percent_at_most(tpr)} of the {statement.unit}s at {words.percent(float(fpr))} false alarms"
        for fpr, tpr in statement.tpr_at_fpr.items()
    )
    return (
        f"{statement.sentence} No membership test that could ever exist finds more than {tests}. "
        "This is an upper bound. It holds against every adversary, "
        "with whatever knowledge and computing power, today and later."
    )


def holds(statement: Statement) -> bool:
    """Whether anything is promised to anybody."""
    return words.is_private(statement) and not statement.void


def beneficiaries(report: Report, *, counted: bool = True) -> str:
    """To whom it is promised; their number is not told where it is not `counted`."""
    unit = report.guarantee.unit
    if not holds(report.guarantee):
        return "To nobody."
    number = f"{report.data['train']:,} " if counted else ""
    text = f"To each {unit} among the {number}training records, alike."
    if unit == "record":
        text += " Someone with several records among them is protected less, the more records there are."
    return text


def attacks(report: Report) -> str:
    """How measured leakage must be read."""
    if not report.leakage:
        if report.not_run:
            return "No attack could be judged, so nothing was measured."
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
    """What the model is able to do, beside the floor and the twin."""
    shown = f" {at_floor(report)}" if no_better(report) else ""
    if (ratio := signal(report.guarantee)) is not None and noise(ratio):
        shown += f" {noise(ratio)}"
    accuracy = report.utility.accuracy
    if report.utility.metric != "accuracy":
        said = f"Its {words.named(report.utility.metric)} on {report.utility.records:,} test records is "
        said += f"{words.number(accuracy.value)}; predicting the same of all of them reaches "
        return f"{said}{words.number(report.floor_accuracy)}.{shown}"
    text = (
        f"It is right on {words.percent(accuracy.value)} of {report.utility.records:,} test records "
        f"(interval {words.percent(accuracy.low)} to {words.percent(accuracy.high)}); always naming the most "
        f"frequent class is right on {words.percent(report.floor_accuracy)}"
    )
    if report.control is not None:
        text += f", and the non-private twin on {words.percent(report.control.accuracy.value)}"
    return f"{text}.{shown}"


def next_steps(report: Report) -> Iterator[str]:
    """What the person who signs should do with this."""
    statement, lines = report.guarantee, main_lines(report)
    if statement.void:
        yield (
            "**Do not release this model as a private one.** Remove the reason why the guarantee is void, "
            "and train again."
        )
    elif any(found(line, BROKEN) for line in lines):
        yield (
            "**Do not release this model.** An attack did better than the proof allows, so the program does "
            "not do what was proved. Keep this run's folder, and have the implementation examined."
        )
    elif not words.is_private(statement):
        yield (
            "Treat this model as confidential as its training records. For a guarantee, train again with "
            "`mechanism=dpsgd`."
        )
    else:
        yield (
            f"Decide whether {words.budget(statement)}, is acceptable for these people and this use. Decide "
            "by what is proved: what was measured is no ceiling."
        )
        yield "Read what is outside the guarantee, below: whatever else is published is not covered by it."
    if no_better(report):
        yield (
            "Do not use the model's predictions: nothing shows that it has learned anything. Train with more "
            "records, larger batches, a smaller model or a larger epsilon; `task=plan` tells what they cost."
        )
    weak = sum(found(line, TOO_WEAK, NOT_SHOWN) for line in lines)
    if weak:
        yield (
            f"Count {weak} of {len(lines)} measurements as no evidence: those attacks were too weak to tell, "
            "or were not shown the training. With more trials they may see something."
        )
    if not report.leakage:
        yield "Run the attacks before deciding: nothing was measured."
    if confidential(report):
        yield (
            f"Keep {confidential(report)} as confidential as the training records. What may be given away is "
            "`statement.json` and `model_card.md`."
        )


def confidential(report: Report) -> str:
    """The files that show, name or measure single training records; empty where none does."""
    shown = ["report.html (or .pdf)", "class_inversion.png"] if report.gallery is not None else []
    named = ["exposure.csv"] if report.exposed else []
    measured = ["sensitivity.json"] if audited(report) else []
    *others, last = [*shown, *named, *measured] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def audited(report: Report) -> bool:
    """Whether sensitivity.json holds how long single records' gradients were."""
    sensitivity = report.guarantee.sensitivity
    return sensitivity is not None and sensitivity.audit is not None


# ---------------------------------------------------------------------- beside the numbers


def data(report: Report) -> str:
    """Which records there were."""
    facts = report.data
    doubled = copies(facts.get("copies", {}))  # an older run did not count them
    return (
        f"Data: {facts['name']} ({facts['source']}); {facts['train']:,} records to train on, "
        f"{facts['holdout']:,} held out, {facts['test']:,} to test on, {facts['classes']} classes."
        f"{' ' * bool(doubled)}{doubled}"
    )


def copies(counts: Mapping[str, int]) -> str:
    """How often records occur several times, and what that means for what is proved; empty: none does."""
    found = [f"{counts[part]:,} {what}" for part, what in COPIES.items() if counts.get(part)]
    if not found:
        return ""
    *others, last = found
    listed = f"{', '.join(others)} and {last}" if others else last
    return (
        f"{listed} have exactly the inputs of another training record: the guarantee is for each copy by "
        "itself, and what is measured on copies of training records flatters."
    )


def legend(report: Report) -> str:
    """How the leakage table is read; the report must have leakage lines."""
    return (
        f"Intervals are at {report.leakage[0].confidence:.0%} confidence, each line by itself: among many, "
        "one may err. *Floor*: the same attack without the model. *Control*: the same attack on the twin "
        "trained without privacy, which is not released. *Bound*: what the guarantee proves about this "
        "metric. *Limit*: the most that this attack with these trials could have certified."
    )


def remarks(line: Leakage) -> str:
    """How a line came about, and its further numbers; empty where there is nothing to say."""
    parts = [line.notes] if line.notes else []
    parts += [f"{name.replace('_', ' ')} {words.number(value)}" for name, value in line.details.items()]
    return "; ".join(parts)


def exposure(report: Report) -> str:
    """What exposure.csv holds, to follow its name."""
    return (
        f"names the {len(report.exposed):,} training records that a coin put there, the most easily "
        "recognised first. **It is as confidential as they are.**"
    )


def seconds(report: Report) -> str:
    """How long each part took."""
    parts = ", ".join(f"{name} {words.duration(value)}" for name, value in report.seconds.items())
    return f"Time taken: {parts}."
