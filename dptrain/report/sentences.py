"""What a report says in words, once for every document; marks: `**bold**`, `*emphasis*`, `` `code` ``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dptrain.contracts import Leakage, Randomness, Report, Statement
from dptrain.contracts.rounding import rounded_up, rounded_up_to
from dptrain.evidence.verdict import BROKEN, LEAKS, NOT_SHOWN, TOO_WEAK, kind
from dptrain.report import defences, words

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
    accuracy = report.utility.accuracy
    if report.utility.metric != "accuracy":
        said = f"Its {words.named(report.utility.metric)} on {report.utility.records:,} test records is "
        said += f"{words.number(accuracy.value)}; predicting the same of all of them reaches "
        return f"{said}{words.number(report.floor_accuracy)}."
    text = (
        f"It is right on {words.percent(accuracy.value)} of {report.utility.records:,} test records "
        f"(interval {words.percent(accuracy.low)} to {words.percent(accuracy.high)}); always naming the most "
        f"frequent class is right on {words.percent(report.floor_accuracy)}"
    )
    if report.control is not None:
        text += f", and the non-private twin on {words.percent(report.control.accuracy.value)}"
    return f"{text}."


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
    said = [line.notes] if line.notes else []
    said += [f"{name.replace('_', ' ')} {words.number(value)}" for name, value in line.details.items()]
    return "; ".join(said)


def exposure(report: Report) -> str:
    """What exposure.csv holds, to follow its name."""
    return (
        f"names the {len(report.exposed):,} training records that a coin put there, the most easily "
        "recognised first. **It is as confidential as they are.**"
    )


def assumptions(statement: Statement) -> Iterator[str]:
    """What the guarantee rests on."""
    if not words.is_private(statement):
        yield "None are needed: nothing is promised."
        return
    unit = statement.unit
    yield f"Two data sets are neighbours when one {unit} is {words.ADJACENCY[statement.adjacency]}."
    if statement.units_public:
        yield f"The number of {unit}s is taken to be public."
    yield f"Released: {statement.released}. Nothing else of this run is covered, this report included."
    ran, assumed = statement.sampling_run, statement.sampling_assumed
    if ran == assumed:
        yield f"Batches were drawn by {ran} sampling, as the accountant assumes."
    else:
        yield f"Batches were drawn by {ran} sampling, accounted as {assumed} sampling."
    randomness = statement.randomness
    if randomness is None:
        pass  # a report of an older run, which does not say
    elif not randomness.secret:
        yield "**The seed of noise and sampling is not secret.**"
    elif randomness.cryptographic:
        yield "The seed of noise and sampling is secret, and their generator is a cryptographic one."
    else:
        yield (
            f"The seed of noise and sampling is secret, but the generator is not a cryptographic one "
            f"({randomness.source}): it is taken to be as good as true randomness."
        )
    yield from _noise(randomness)
    yield from _contribution(statement)
    yield from _declared(statement)
    if statement.trust is None:
        yield "The computer that trained, and everyone with access to it, are trusted."
    else:
        yield f"Trust model: {statement.trust.model}. Records are seen by {statement.trust.sees_records}."
        yield f"Believed without proof: {'; '.join(statement.trust.trusted)}."
    if statement.hashes is not None and statement.hashes.weights is not None:
        yield (
            f"This is said of the weights whose SHA-256 begins {statement.hashes.weights[:16]}"
            + (f", on {statement.date}" if statement.date else "")
            + "; `python -m dptrain task=verify release=FOLDER` checks it."
        )


def _noise(randomness: Randomness | None) -> Iterator[str]:
    """What the noise is taken to be, and what it costs that it is only nearly Gaussian."""
    if randomness is None or randomness.grid is None:
        yield "Noise is added in floating-point arithmetic, which is taken to be exact."
        return
    yield (
        f"Sum and noise are rounded to one public grid, {randomness.grid:.2g} standard deviations of the "
        "noise wide. That noise is Gaussian only nearly costs at most "
        f"{rounded_up_to(randomness.epsilon, 2)} of epsilon and {rounded_up_to(randomness.delta, 2)} of "
        "delta, which are counted."
    )
    yield from (f"{each[0].upper()}{each[1:].rstrip('.')}." for each in randomness.assumptions)


def _contribution(statement: Statement) -> Iterator[str]:
    """How much one unit may add, and how it changes the set that is trained on."""
    found, unit = statement.sensitivity, statement.unit
    if found is not None and found.most is not None:
        used = "" if found.records is None else f", by {found.records} of its records at most"
        yield (
            f"One {unit} moves a step's sum of gradients by at most {rounded_up_to(found.most, 6)}{used}. "
            f"That the rows of a batch do not depend on each other: {found.independence}."
        )
        if found.audit is not None:
            ratio = "" if found.ratio is None else f" (largest ratio {rounded_up(found.ratio, 4)})"
            yield f"Tried on the engine and model in use, on rows that are no record: {found.audit}{ratio}."
    if statement.assignment is not None and statement.assignment.change is not None:
        yield f"The set that is trained on: {statement.assignment.change.rstrip('.')}."


def _declared(statement: Statement) -> Iterator[str]:
    """Which constants count as public, and which data."""
    found = statement.constants
    if found is not None:
        declared = ", ".join(found.declared).replace("_", " ")
        yield (
            f"Declared, and taken to depend on no record: {declared}; mean, standard deviation and bounds of "
            "inputs" + (", class frequencies." if found.class_prior is not None else ".")
        )
        if found.from_units:
            named = ", ".join(found.from_units).replace("_", " ")
            yield f"Computed from the number of {statement.unit}s: {named}."
    yield from (f"Taken to be public: {each}." for each in statement.public_data)


def outside(statement: Statement) -> list[str]:
    """What the guarantee does not cover."""
    return list(statement.outside_guarantee) or ["nothing that this program knows of"]


def seconds(report: Report) -> str:
    """How long each part took."""
    parts = ", ".join(f"{name} {words.duration(value)}" for name, value in report.seconds.items())
    return f"Time taken: {parts}."
