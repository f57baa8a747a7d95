"""The tables of a report as plain text cells, for Markdown and HTML alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dptrain.contracts import Leakage, Report, Statement
from dptrain.contracts.rounding import rounded_up_to
from dptrain.privacy.written import to_json
from dptrain.report import counts, defences, words
from dptrain.report.blocks import Table
from dptrain.report.leakage_words import compatible, explained_verdict, named
from dptrain.report.sentences import main_lines


def utility(report: Report) -> Table:
    """The release beside the non-private twin, where there is one, and the floor."""
    models = {"release": report.utility}
    if report.control is not None:
        models["non-private twin"] = report.control
    return Table(
        heads=("", *models, "floor"),
        rows=(
            (
                f"test {words.named(report.utility.metric)}",
                *(words.measured(model.accuracy) for model in models.values()),
                words.number(report.floor_accuracy),
            ),
            ("AUROC", *(words.number(model.auroc) for model in models.values()), ""),
            ("loss", *(words.number(model.loss) for model in models.values()), ""),
            *(
                (
                    f"test {words.named(name)}",
                    *(words.measured(m.more[name]) for m in models.values()),
                    "",
                )
                for name in report.utility.more
            ),
        ),
        numeric=range(1, 2 + len(models)),
    )


def leakage(report: Report) -> Table:
    """Every main leakage line with all that is needed to read it."""
    void = bool(report.guarantee.void)
    return Table(
        heads=("attack", "measured", "floor", "control", "bound", "limit", "trials", "verdict"),
        rows=tuple(_line(line, void=void) for line in main_lines(report)),
        numeric=range(1, 7),
    )


def _line(line: Leakage, *, void: bool) -> tuple[str, ...]:
    return (
        f"{line.attack}: {named(line)}",
        words.measured(line.value) + ("" if void else compatible(line.value, line.bound, words.at_most)),
        words.number(line.floor),
        "none" if line.control is None else words.measured(line.control),
        "void" if void and line.bound is not None else words.bound(line.bound),
        words.number(line.detection_limit),
        f"{line.trials:,}",
        explained_verdict(line),
    )


def output_defences(report: Report) -> Table | None:
    """What each form of output leaves to attacks by query; None where only one was tried."""
    names, rows = defences.table(report.leakage)
    if not rows:
        return None
    return Table(
        heads=("attack by query", "floor", *(name.replace("_", " ") for name in names)),
        rows=tuple(
            (
                name,
                words.number(floor),
                *("" if value is None else words.measured(value) for value in values),
            )
            for name, floor, values in rows
        ),
        numeric=range(1, 2 + len(names)),
    )


def statement(stated: Statement) -> Table:
    """The privacy statement, every term of it."""
    rows = tuple(
        (name.replace("_", " "), value)
        for name, value in _flat(
            {
                **to_json(stated),
                "epsilon": stated.epsilon,
                "plan": dict(stated.plan),
                "counts": counts.row(stated.counts),
            }
        )
        if value != ""
    )
    return Table(heads=("term", "value"), rows=rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every entry of a nested statement as a name and a text."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield name, "; ".join(str(item) for item in value)
        elif value is None:
            continue  # a constant that this mechanism does not have
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        elif isinstance(value, float):
            if math.isinf(value):
                yield name, "∞"
            elif any(word in name for word in ("epsilon", "delta", "tpr")):  # what is proved
                yield name, rounded_up_to(value, 6)
            else:
                yield name, f"{value:.6g}"
        else:
            yield name, str(value)
