"""Output defences side by side: what each leaves to attacks by query."""

from __future__ import annotations

from collections.abc import Sequence

from dptrain.contracts import Interval, Leakage

OPEN = "confidences"  # the interface without a defence
CAVEAT = "None of these is a guarantee: another attack may get round any of them, and only epsilon bounds it."


def shown(line: Leakage) -> bool:
    """Whether a line belongs among the main ones: not met through a defended interface."""
    return line.interface in ("", OPEN)


def table(leakage: Sequence[Leakage]) -> tuple[list[str], list[tuple[str, float, list[Interval | None]]]]:
    """Names of the interfaces, the open one first, and for each attack and metric its floor and values.

    Empty where no attack met more than one interface.
    """
    queried = [line for line in leakage if line.interface]
    names = list(dict.fromkeys([OPEN, *(line.interface for line in queried)]))
    if len(names) == 1:
        return [], []
    found = {(line.attack, line.metric, line.interface): line for line in queried}
    rows = []
    for attack, metric in dict.fromkeys((line.attack, line.metric) for line in queried):
        lines = [found.get((attack, metric, name)) for name in names]
        floor = next(line.floor for line in lines if line is not None)
        values = [None if line is None else line.value for line in lines]
        rows.append((f"{attack}: {metric}", floor, values))
    return names, rows
