"""Numbers of records in words: what became of them all, and what they were too few for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dptrain.contracts import Counts, Scaled
from dptrain.report import words

NOT_STATED = "not stated"
PUBLIC = "public"  # held-out records that are taken to be public
SET_ASIDE = {"probes": "probes", "slots": "candidates"}


def row(counts: Counts | None) -> str:
    """How many records there were, and what each of them was used for, in one line."""
    if counts is None:
        return NOT_STATED
    used = {"in the files": _number(counts.files), "trained on": _trained_on(counts)}
    used |= {"held out": _number(counts.holdout), "to test on": _number(counts.test)}
    aside = {name: count for name, count in counts.set_aside.items() if name != PUBLIC}
    if PUBLIC in counts.set_aside:
        used["taken to be public"] = _number(counts.set_aside[PUBLIC])
    if aside:
        each = ", ".join(f"{count:,} {SET_ASIDE.get(name, name)}" for name, count in aside.items())
        about = "about " if counts.files is None else ""
        used["set aside for attacks"] = f"{about}{sum(aside.values()):,} ({each})"
    return "; ".join(f"{name}: {number}" for name, number in used.items())


def _number(count: int | None) -> str:
    return NOT_STATED if count is None else f"{count:,}"


def _trained_on(counts: Counts) -> str:
    if counts.unit == "record" or counts.units is None:
        return _number(counts.trained_on)
    units = f"{counts.units:,} {counts.unit}s"
    return units if counts.trained_on is None else f"{counts.trained_on:,} of {units}"


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
