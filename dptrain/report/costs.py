"""What the model is able to do for whom, and what privacy costs them: tables and sentences."""

from __future__ import annotations

from dptrain.contracts import Cost, Interval, Report, Utility
from dptrain.report import words
from dptrain.report.blocks import Table

LISTED = 3  # of those who pay, by name in a sentence
WIDEST = 12  # classes of a confusion table that is shown; larger ones are in report.json


def name(by: str, value: str) -> str:
    """Whom a row is about: all test records, class ill, label nodule, sex = Female."""
    if by == "all":
        return "all test records"
    return f"{by} {value}" if by in ("class", "label") else f"{by.replace('_', ' ')} = {value}"


def by_part(report: Report) -> Table | None:
    """The release on each class and each subgroup, beside the control model where there is one."""
    costs = {(each.by, each.name): each for each in report.costs}
    found, control = parts(report.utility), {} if report.control is None else parts(report.control)
    if not found:
        return None
    counts = records(report.utility)
    beside = ("control model", "release − control", "beside all others") if control else ()
    return Table(
        heads=("", "records", "release", *beside),
        rows=tuple(
            (
                name(*key),
                f"{counts[key]:,}" if key in counts else "",
                words.measured(value),
                *(_beside(control.get(key), costs.get(key)) if control else ()),
            )
            for key, value in found.items()
        ),
        numeric=range(1, 3 + len(beside)),
    )


def _beside(control: Interval | None, cost: Cost | None) -> tuple[str, str, str]:
    return (
        "" if control is None else words.measured(control),
        "" if cost is None else words.difference(cost.difference),
        "" if cost is None or cost.excess is None else words.difference(cost.excess),
    )


def caption(report: Report) -> str:
    """What the table of classes and subgroups is about."""
    if report.costs:
        return "What privacy costs whom: release and control model on the same test records."
    return "What the release is able to do for whom, on test records."


def legend(report: Report) -> str:
    """How the table of classes and subgroups is read."""
    utility = report.utility
    measured = [f"of {_each(utility)} the {measured_of_each(utility)}"] if utility.by_class else []
    if utility.by_subgroup:
        lower = ", the lower the better" if utility.scores_are_errors else ""
        measured.append(f"of subgroups the {measured_of_subgroups(utility)}{lower}")
    text = f"{words.sentence_case(', '.join(measured))}."
    if utility.by_class:
        text += (
            " Those that fewer than 10 test records have are not shown, nor the next larger one where they "
            "would still be too few."
        )
    if utility.by_subgroup:
        text += (
            " Values that fewer than 10 test records have are in *all others*, with the next larger one "
            "where they would still be too few."
        )
    if report.costs:
        text += (
            " *Beside all others*: release minus control, less what that is on all other test records. The "
            "intervals of each of the last two columns hold for all rows together (Bonferroni). They are "
            "about these two models: another training may differ."
        )
    return text


def title(utility: Utility) -> str:
    """What the table of classes and subgroups is called: those that there are."""
    named = [_each(utility)] * bool(utility.by_class) + ["subgroups"] * bool(utility.by_subgroup)
    return words.sentence_case(words.listed(named))


def _each(utility: Utility) -> str:
    return "classes" if utility.confusion else "labels"


def measured_of_each(utility: Utility) -> str:
    """What is measured of each class or label."""
    return "recall" if utility.confusion else "AUROC"


def measured_of_subgroups(utility: Utility) -> str:
    """What is measured of each subgroup, and of all test records beside them."""
    return words.named(utility.scored or utility.metric)


def parts(utility: Utility) -> dict[tuple[str, str], Interval]:
    """What a model reaches on each class or label, and on each subgroup."""
    return of_each(utility) | of_subgroups(utility)


def of_each(utility: Utility) -> dict[tuple[str, str], Interval]:
    """What a model reaches on each class or label."""
    kind = "class" if utility.confusion else "label"
    return {(kind, name): value for name, value in utility.by_class.items()}


def of_subgroups(utility: Utility) -> dict[tuple[str, str], Interval]:
    """What a model reaches on each subgroup."""
    return {(each.column, each.name): each.value for each in utility.by_subgroup}


def records(utility: Utility) -> dict[tuple[str, str], int]:
    """How many test records each class and each subgroup has, as far as is known."""
    classes = {("class", label): sum(row.values()) for label, row in utility.confusion.items()}
    return classes | {(each.column, each.name): each.records for each in utility.by_subgroup}


def confusion(utility: Utility) -> Table | None:
    """How often each class is named for records of each; None of very many classes, or of another task."""
    # All classes, those too whose rows are pooled.
    named = list(next(iter(utility.confusion.values()), ()))
    if not 0 < len(named) <= WIDEST:
        return None
    return Table(
        heads=("class of the record", *(f"named {label}" for label in named)),
        rows=tuple(
            (label, *(f"{count:,}" for count in row.values())) for label, row in utility.confusion.items()
        ),
        numeric=range(1, 1 + len(named)),
    )


def lost(difference: Interval, utility: Utility) -> Interval:
    """How much worse the release is than the control model, of their difference: of errors as it is."""
    if utility.scores_are_errors:
        return difference
    return Interval(value=-difference.value, low=-difference.high, high=-difference.low)


def more(report: Report) -> list[Cost]:
    """Those whom privacy costs more than all others, the most first, by the digits that are shown."""
    judged = [(each, lost(each.excess, report.utility)) for each in report.costs if each.excess is not None]
    paying = [pair for pair in judged if round(pair[1].low, 3) > 0]
    return [each for each, _ in sorted(paying, key=lambda pair: -pair[1].value)]


def sentence(report: Report) -> str:
    """What privacy costs all test records, and whether it costs anybody more than the rest; may be empty."""
    if len(report.costs) < 2:
        return ""
    everybody, *rest = report.costs
    metric = measured_of_subgroups(report.utility)
    text = (
        f"Released minus control, {metric} on all test records differs by "
        f"{words.difference(everybody.difference)}. "
    )
    judged = [(each, lost(each.excess, report.utility)) for each in rest if each.excess is not None]
    if not judged:
        return text.strip()
    if paying := more(report):
        named = [
            f"{name(each.by, each.name)} ({words.difference(each.excess)} beside all others)"
            for each in paying[:LISTED]
            if each.excess is not None
        ]
        left = [f"{len(paying) - LISTED} more"] if len(paying) > LISTED else []
        return f"{text}**Privacy is worse for some than for the rest**: {words.listed([*named, *left])}."
    dearest, excess = max(judged, key=lambda pair: pair[1].high)
    among = (
        words.listed([name(each.by, each.name) for each, _ in judged[:LISTED]]) if len(judged) <= 3 else ""
    )
    whom = among or f"any of {len(judged)} {title(report.utility).lower()}"
    return (
        f"{text}The test records do not show that privacy is worse for {whom} than for the rest; they leave "
        f"open up to {words.high_end(max(0.0, excess.high))} for {name(dearest.by, dearest.name)} "
        f"({words.how_many(dearest.records, 'record')})."
    )


def calibrated(report: Report) -> str:
    """How far confidences may be trusted; empty where none are given away as they are."""
    if report.utility.calibration is None:
        return ""
    error = report.utility.calibration.error
    text = f"Confidence and share right differ by {words.measured(error)} in the mean (calibration error)"
    if report.control is not None and report.control.calibration is not None:
        text += f", those of the control model by {words.measured(report.control.calibration.error)}"
    constants = report.guarantee.constants
    if constants is not None and constants.class_prior is not None:
        text += (
            ". Trained with `data.class_prior`, the model gives confidences as they would be if all classes "
            "were equally frequent: on records as frequent as these they are not calibrated by design"
        )
    return f"{text}."
