"""What an officer asks of a report: what is promised to whom, what was tried, found, not seen, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dptrain.contracts import Leakage, NotRun, Report, Statement
from dptrain.evidence.verdict import ABOVE, BROKEN, LEAKS, NO_CONTROL, NOT_SHOWN, RESISTED, TOO_WEAK
from dptrain.report import words
from dptrain.report.leakage_words import digits, named
from dptrain.report.learned import no_better
from dptrain.report.sentences import attacks, confidential, found, holds, main_lines
from dptrain.report.words import how_many, listed

NOTHING = {  # why a measurement tells nothing, by its verdict
    TOO_WEAK: "the attack did not succeed on the control model either, or could not have with these trials",
    NOT_SHOWN: "the attack was not shown the whole training",
    NO_CONTROL: "without a control model it is not known whether the attack could have succeeded",
}


def promise(statement: Statement) -> str:
    """What is proved, and what its delta allows for so many people."""
    if not holds(statement):
        return statement.sentence
    return " ".join(filter(None, (statement.sentence, statement.delta_meaning)))


def beneficiaries(report: Report, *, counted: bool = True) -> str:
    """To whom it is promised; `counted` for the owner of the records, else with numbers that are public."""
    stated = report.guarantee
    if not holds(stated):
        return "To nobody."
    told = report.counts if counted else stated.counts  # what anyone may know, or what its owner does
    records = None if told is None else told.trained_on
    if stated.unit == "record":
        number = "" if records is None else f"{records:,} "
        return (
            f"To each of the {number}training records alike; someone with several of them is protected less, "
            "the more records there are."
        )
    number = "" if told is None or told.units is None else f"{told.units:,} "
    of = "" if records is None else f", with {records:,} records together"
    return f"To each of the {number}training {stated.unit}s{of}, alike, with all records of one together."


def tried(report: Report) -> str:
    """Which attacks were run, and what each is compared with."""
    lines = main_lines(report)
    if not lines:
        return attacks(report)
    names = list(dict.fromkeys(line.attack for line in lines))
    control = (
        "where it could be, a control model (trained alike, without privacy)"
        if any(line.control is not None for line in lines)
        else "no control model"
    )
    return (
        f"{how_many(len(names), 'attack')} in {how_many(len(lines), 'measurement')}: {listed(names)}. Each "
        f"is held against its baseline (what it reaches without having seen the training), {control} and, "
        "where there is one, a proved bound."
    )


def seen(report: Report) -> str:
    """What the attacks found, and what they did not although they could have."""
    lines = main_lines(report)
    if not lines:
        return "Nothing."
    leaking = [line for line in lines if found(line, LEAKS, ABOVE, BROKEN)]
    text = "No leakage above the baseline." if not leaking else ""
    if leaking:
        void = bool(report.guarantee.void)
        text = f"Leakage above the baseline: {'; '.join(_finding(line, void=void) for line in leaking)}."
    leaked = _attacks(leaking)
    resisted = _attacks(line for line in lines if found(line, RESISTED))
    if resisted := [name for name in resisted if name not in leaked]:
        text += f" No leakage from {listed(resisted)}, although the attack succeeds on the control model."
    return text


def _finding(line: Leakage, *, void: bool) -> str:
    shown = digits(line)
    bound = "no bound" if line.bound is None or void else f"bound {words.at_most(line.bound, shown)}"
    beside = f"baseline {words.number(line.floor, shown)}, {bound}"
    text = f"{line.attack}, {named(line)}, {words.measured(line.value, shown)} ({beside})"
    if found(line, BROKEN):
        return f"**{text}: more than is proved**"
    return f"**{text}: above its bound, not beyond doubt**" if found(line, ABOVE) else text


def unseen(report: Report) -> str:
    """Which measurements are no evidence, and why none is a ceiling."""
    lines = main_lines(report)
    parts = []
    for kind, why in NOTHING.items():
        if weak := [line for line in lines if found(line, kind)]:
            tells = "tells" if len(weak) == 1 else "tell"
            parts.append(
                f"{len(weak)} of {how_many(len(lines), 'measurement')} {tells} nothing either way "
                f"({listed(_attacks(weak))}): {why}."
            )
    if report.not_run:
        parts.append(f"Not run: {listed(_attacks(report.not_run))}, for the reasons below.")
    if lines:
        parts.append("A better attack may find more than any of these: only a bound is a ceiling.")
    return " ".join(parts) or "Everything: nothing was measured."


def _attacks(lines: Iterable[Leakage | NotRun]) -> list[str]:
    """The names of their attacks, each once."""
    return list(dict.fromkeys(line.attack.replace("_", " ") for line in lines))


def next_steps(report: Report) -> Iterator[str]:
    """What the person who signs should do with this."""
    statement, broken = report.guarantee, any(found(line, BROKEN) for line in main_lines(report))
    private = words.is_private(statement)
    if statement.void:
        yield (
            "**Do not release this model as a private one.** Remove the reason why the guarantee is void, "
            "and train again."
        )
    if broken:
        yield (
            "**Do not release this model.** An attack did better than the proof allows, so the program does "
            "not do what was proved. Keep this run's folder, and have the implementation examined."
        )
    elif any(found(line, ABOVE) for line in main_lines(report)):
        yield (
            "**Train and attack once more before this model is released.** An attack did better than its "
            "bound, by no more than chance allows: an honest run seldom shows that, a broken one every time."
        )
    elif not private:
        yield (
            "Treat this model as confidential as its training records. For a guarantee, train again with "
            "`mechanism=dpsgd`."
        )
    elif not statement.void:
        yield (
            f"Decide whether {words.budget(statement)}, is acceptable for these people and this use: by what "
            "is proved, since what was measured is no ceiling."
        )
        yield "Publish nothing else of this run: what is outside the guarantee is listed below."
    if no_better(report):
        more = "larger batches, a smaller model or a larger epsilon" if private else "or for more steps"
        yield (
            "Do not use the model's predictions: nothing shows that it has learned anything. Train with more "
            f"records, {more}; `task=plan` tells what that costs."
        )
    if not report.leakage:
        yield "Run the attacks before deciding: nothing was measured."
    if confidential(report):
        given = "; give away `statement.json` and `model_card.md`" if holds(statement) and not broken else ""
        yield f"Keep {confidential(report)} as confidential as the training records{given}."
