"""Numbers of records in words: what became of them all, and what they were too few for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dptrain.contracts import Counts, Scaled
from dptrain.report import words

NOT_STATED = "not stated"
SET_ASIDE = {"probes": "probes", "slots": "candidates"}


def row(counts: Counts | None) -> str:
    """How many records there were, and what each of them was used for, in one line."""
    if counts is None:
        return NOT_STATED
    files = NOT_STATED if counts.files is None else f"{counts.files:,} records"
    used = [_trained_on(counts), f"{counts.holdout:,} held out", f"{counts.test:,} to test on"]
    if counts.set_aside:
        each = ", ".join(
            f"{number:,} {SET_ASIDE.get(name, name)}" for name, number in counts.set_aside.items()
        )
        about = "about " if counts.files is None else ""
        used.append(f"{about}{sum(counts.set_aside.values()):,} set aside for attacks ({each})")
    return f"in the files: {files}; {', '.join(used)}"


def _trained_on(counts: Counts) -> str:
    units = None if counts.units is None else f"{counts.units:,} {counts.unit}s"
    if counts.unit != "record" and units is not None and counts.trained_on is not None:
        return f"{counts.trained_on:,} records of {units} trained on"
    return f"trained on: {NOT_STATED}" if units is None else f"{units} trained on"


def scaled(numbers: Iterable[Scaled]) -> Iterator[str]:
    """What was made smaller, and what that costs: a sentence each."""
    for each in numbers:
        text = f"{each.key} is {each.used:,} instead of {each.asked:,}, as many as there is room for"
        if each.limits is not None:
            few, all_ = map(words.percent, each.limits)
            text += (
                f": with so many, {few} can be certified at most, and {all_} with as many as were asked for"
            )
        yield f"{text}."
