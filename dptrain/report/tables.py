"""The tables of a report as plain text cells, for Markdown and HTML alike."""

from __future__ import annotations

from dptrain.contracts import Leakage, Report, Statement, Utility
from dptrain.report import defences, words
from dptrain.report.blocks import Table
from dptrain.report.leakage_words import compatible, digits, explained_verdict, named
from dptrain.report.sentences import main_lines
from dptrain.report.statement_rows import rows


def utility(report: Report) -> Table:
    """The release beside the control model, where there is one, and the baseline."""
    models = {"release": report.utility}
    if report.control is not None:
        models["control model"] = report.control
    return Table(
        heads=("", *models, "baseline"),
        rows=(
            (
                f"test {words.named(report.utility.metric)}",
                *(words.measured(model.accuracy) for model in models.values()),
                words.number(report.floor_accuracy),
            ),
            *(
                [("AUROC", *(words.measured(model.auroc) for model in models.values()), "")]
                if has_auroc(report.utility)
                else []
            ),
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


def has_auroc(utility: Utility) -> bool:
    """Whether an AUROC stands beside the task's metric: that of classes."""
    return utility.metric == "accuracy"


def leakage(report: Report) -> Table:
    """Every main leakage line with all that is needed to read it."""
    void = bool(report.guarantee.void)
    return Table(
        heads=("attack", "measured", "baseline", "control", "bound", "detection limit", "trials", "verdict"),
        rows=tuple(_line(line, void=void) for line in main_lines(report)),
        numeric=range(1, 7),
    )


def _line(line: Leakage, *, void: bool) -> tuple[str, ...]:
    shown = digits(line)
    return (
        f"{line.attack}: {named(line)}",
        words.measured(line.value, shown)
        + ("" if void else compatible(line.value, line.bound, words.at_most)),
        words.number(line.floor, shown),
        "none" if line.control is None else words.measured(line.control, shown),
        "void" if void and line.bound is not None else words.bound(line.bound, shown),
        words.low_end(line.detection_limit, shown),
        f"{line.trials:,}",
        explained_verdict(line),
    )


def output_defences(report: Report) -> Table | None:
    """What each form of output leaves to attacks by query; None where only one was tried."""
    names, rows = defences.table(report.leakage)
    if not rows:
        return None
    return Table(
        heads=("attack by query", "baseline", *(name.replace("_", " ") for name in names)),
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
    return Table(heads=("term", "value"), rows=tuple(rows(stated)))
