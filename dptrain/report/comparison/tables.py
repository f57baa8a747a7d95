"""The tables of a comparison as plain text cells, for the page and for the console."""

from __future__ import annotations

import math

from dptrain.report import words
from dptrain.report.blocks import Table
from dptrain.report.comparison import sentences
from dptrain.report.comparison.points import VOID, Answer, Comparison, Line, Point


def answer(comparison: Comparison, found: Answer) -> Table:
    """Every limit at every point."""
    by_place = {(each.point, each.limit): each for each in found.judged}
    rows = tuple(
        (point.label, *(sentences.outcome(by_place[point.label, limit]) for limit in found.limits))
        for point in comparison.points
    )
    return Table(heads=("point", *found.limits), rows=rows, numeric=range(1, 1 + len(found.limits)))


def limits(found: Answer) -> Table:
    """The same limit by limit, for narrow places."""
    return Table(
        heads=("limit", "point", "outcome", "held against it", "by"),
        rows=tuple(
            (
                each.limit,
                each.point,
                each.outcome,
                "" if each.used is None else words.number(each.used),
                each.basis,
            )
            for limit in found.limits
            for each in found.judged
            if each.limit == limit
        ),
    )


def utility(comparison: Comparison) -> Table:
    """What the released and the control models are able to do, for whom least, and what lies between them."""
    worst = any(point.worst is not None for point in comparison.points)
    # Of several labels the metric is an AUROC itself, and numbers have none.
    areas = comparison.metric == "accuracy"
    return Table(
        heads=(
            "point", words.named(comparison.metric), *(["AUROC"] if areas else []), "control model",
            "released − control", "p", "seeds", *(["worst for"] if worst else []),
        ),
        rows=tuple(
            (
                point.label,
                sentences.ends(point.accuracy),
                *(["" if point.auroc is None else sentences.ends(point.auroc)] if areas else []),
                "none" if point.control_accuracy is None else sentences.ends(point.control_accuracy),
                "" if point.cost is None else sentences.difference(point.cost),
                "" if point.cost is None else sentences.p_value(point.cost),
                ", ".join(map(str, point.seeds)),
                *([_worst(point)] if worst else []),
            )
            for point in comparison.points
        ),
        numeric=range(1, 6 + areas),
    )  # fmt: skip


def _worst(point: Point) -> str:
    if point.worst is None:
        return ""
    return f"{'; '.join(point.worst_for)}: {sentences.ends(point.worst)}"


def neighbours(comparison: Comparison) -> Table:
    """Points side by side, by how much they differ, and how surely."""
    return Table(
        heads=("from, to", "difference", "p", "pairs"),
        rows=tuple(
            (
                f"{each.before} → {each.after}",
                sentences.difference(each.paired),
                f"{sentences.p_value(each.paired)} [{each.paired.test}]",
                str(each.paired.pairs),
            )
            for each in comparison.neighbours
        ),
        numeric=range(1, 4),
    )


def leakage(comparison: Comparison) -> Table:
    """Every leakage metric at every point, metric by metric."""
    keys = dict.fromkeys(line.key for point in comparison.points for line in point.lines)
    return Table(
        heads=("attack", "point", "measured", "baseline", "control", "bound", "verdicts"),
        rows=tuple(
            _line(point, line)
            for key in keys
            for point in comparison.points
            for line in point.lines
            if line.key == key
        ),
        numeric=range(2, 6),
    )


def _line(point: Point, line: Line) -> tuple[str, ...]:
    return (
        sentences.metric_name(line.attack, line.metric, line.interface, line.fpr),
        point.label,
        sentences.ends(line.measured),
        "" if line.floor is None else words.number(line.floor),
        "none" if line.control is None else sentences.ends(line.control),
        "void" if point.status == VOID else words.bound(line.bound),
        "; ".join(f"{count} × {verdict}" for verdict, count in line.verdicts.items()),
    )


def guarantees(comparison: Comparison) -> Table:
    """What is proved of each model alone."""
    return Table(
        heads=("point", "ε", "δ", "noise multiplier", "membership tests find at most", "unit", "models"),
        rows=tuple(
            (
                point.label,
                sentences.epsilon(point),
                "" if point.status == VOID or math.isinf(point.epsilon) else words.delta(point.delta),
                "" if point.noise_multiplier is None else _range(point.noise_multiplier),
                sentences.membership(point),
                comparison.unit,
                str(len(point.runs)),
            )
            for point in comparison.points
        ),
        numeric=range(1, 5),
    )


def search(comparison: Comparison) -> Table:
    """The cost of the search, three ways."""
    cost = comparison.cost
    return Table(
        heads=("released", "cost", "who may rely on it"),
        rows=(
            (
                "one model, fixed beforehand",
                "none is private" if math.isinf(cost.alone) else f"ε ≤ {words.epsilon(cost.alone)}",
                f"At δ = {words.delta(cost.delta)}, for those who see that model and nothing else of the "
                "search.",
            ),
            (
                f"all {cost.models} models",
                sentences.composed(comparison),
                f"At δ = {words.delta(cost.delta)}, for those who see every model: {cost.rule}.",
            ),
            (
                "the best one, selected",
                "no number" if cost.selected is None else f"ε = {words.epsilon(cost.selected)}",
                cost.selection,
            ),
            *(
                (
                    f"tuned on public data: {data}",
                    "nothing more",
                    "As is declared, for a model whose settings were all chosen there: one model costs what "
                    "it costs by itself. To choose among these runs by their results is not covered.",
                )
                for data in cost.tuned_on
            ),
        ),
    )


def missing(comparison: Comparison) -> Table:
    """Runs that were asked for and are not shown."""
    return Table(heads=("run", "why"), rows=tuple((each.name, each.why) for each in comparison.missing))


def _range(found: tuple[float, float]) -> str:
    low, high = (f"{value:.3g}" for value in found)
    return low if low == high else f"{low} to {high}"
