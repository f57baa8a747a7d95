"""What an officer asks of a report: what is promised to whom, what was tried, found, not seen, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dptrain.contracts import Leakage, NotRun, Report, Statement
from dptrain.evidence.verdict import BROKEN, LEAKS, NO_CONTROL, NOT_SHOWN, RESISTED, TOO_WEAK
from dptrain.report import words
from dptrain.report.leakage_words import named
from dptrain.report.learned import no_better
from dptrain.report.sentences import attacks, confidential, found, holds, main_lines


def promise(statement: Statement) -> str:
    """What is proved, and what its delta allows for so many people."""
    if not holds(statement):
        return statement.sentence
    return " ".join(filter(None, (statement.sentence, statement.delta_meaning)))


def beneficiaries(report: Report, *, counted: bool = True) -> str:
    """To whom it is promised; their number is not told where it is not `counted`."""
    stated = report.guarantee
    if not holds(stated):
        return "To nobody."
    if stated.unit == "record":
        number = f"{report.data['train']:,} " if counted else ""
        return (
            f"To each of the {number}training records alike; someone with several of them is protected less, "
            "the more records there are."
        )
    number = f"{stated.units:,} " if counted and stated.units is not None else ""
    of = f", with {report.data['train']:,} records together" if counted else ""
    return f"To each of the {number}training {stated.unit}s{of}, alike, with all records of one together."


def tried(report: Report) -> str:
    """Which attacks were run, and what each is compared with."""
    lines = main_lines(report)
    if not lines:
        return attacks(report)
    names = list(dict.fromkeys(line.attack for line in lines))
    control = (
        "a control model (trained alike, without privacy)"
        if any(line.control is not None for line in lines)
        else "no control model"
    )
    return (
        f"{_number(len(names), 'attack')} in {_number(len(lines), 'measurement')}: {_listed(names)}. Each is "
        f"held against its baseline (the same attack without the model), {control} and, where there is one, "
        "a proved bound."
    )


def seen(report: Report) -> str:
    """What the attacks found, and what they did not although they could have."""
    lines = main_lines(report)
    if not lines:
        return "Nothing."
    leaking = [line for line in lines if found(line, LEAKS, BROKEN)]
    text = "No leakage above the baseline." if not leaking else ""
    if leaking:
        void = bool(report.guarantee.void)
        text = f"Leakage above the baseline: {'; '.join(_finding(line, void=void) for line in leaking)}."
    resisted = _attacks(line for line in lines if found(line, RESISTED))
    if resisted:
        text += f" No leakage from {_listed(resisted)}, which succeeds on the control model."
    return text


def _finding(line: Leakage, *, void: bool) -> str:
    bound = "no bound" if line.bound is None or void else f"bound {words.at_most(line.bound)}"
    beside = f"baseline {words.number(line.floor)}, {bound}"
    text = f"{line.attack}, {named(line)}, {words.measured(line.value)} ({beside})"
    return f"**{text}: more than is proved**" if found(line, BROKEN) else text


def unseen(report: Report) -> str:
    """Which measurements are no evidence, and why none is a ceiling."""
    lines = main_lines(report)
    weak = [line for line in lines if found(line, TOO_WEAK, NOT_SHOWN, NO_CONTROL)]
    parts = []
    if weak:
        parts.append(
            f"{len(weak)} of {_number(len(lines), 'measurement')} tell nothing either way "
            f"({_listed(_attacks(weak))}): the attack did not succeed on the control model either, or could "
            "not have with these trials."
        )
    if report.not_run:
        parts.append(f"Not run: {_listed(_attacks(report.not_run))}, for the reasons below.")
    if lines:
        parts.append("A better attack may find more than any of these: only a bound is a ceiling.")
    return " ".join(parts) or "Everything: nothing was measured."


def _attacks(lines: Iterable[Leakage | NotRun]) -> list[str]:
    """The names of their attacks, each once."""
    return list(dict.fromkeys(line.attack.replace("_", " ") for line in lines))


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


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
            f"Decide whether {words.budget(statement)}, is acceptable for these people and this use: by what "
            "is proved, since what was measured is no ceiling."
        )
        yield "Publish nothing else of this run: what is outside the guarantee is listed below."
    if no_better(report):
        yield (
            "Do not use the model's predictions: nothing shows that it has learned anything. Train with more "
            "records, larger batches, a smaller model or a larger epsilon; `task=plan` tells what they cost."
        )
    if not report.leakage:
        yield "Run the attacks before deciding: nothing was measured."
    if confidential(report):
        yield (
            f"Keep {confidential(report)} as confidential as the training records; give away "
            "`statement.json` and `model_card.md`."
        )
