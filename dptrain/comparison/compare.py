"""From many runs to what they say together: points that differ in more than the seed, and their order."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from dptrain.comparison.gather import Found, Selection, gather, remembered
from dptrain.comparison.guarded import guarded, released
from dptrain.comparison.labels import Label, label
from dptrain.contracts import DataError
from dptrain.contracts.outcome import are_errors
from dptrain.evidence.repeats import Paired, Spread, paired, spread
from dptrain.report import costs, words
from dptrain.report.comparison.points import HOLDS, NONE, VOID, Comparison, Line, Neighbours, Point
from dptrain.sweep.cost import search_cost

CONFIDENCE = 0.95  # of the intervals over seeds
SHARE = (0.0, 1.0)
BELOW_ONE = (-math.inf, 1.0)
ABOVE_ZERO = (0.0, math.inf)
FPR = "0.01"  # at which the bound on membership tests is compared
# Metrics that are no share of anything, and may pass one.
NO_SHARE = ("certified_epsilon",)


def compare(selection: Selection, *, confidence: float = CONFIDENCE, command: str) -> Comparison:
    """Gather runs and say what they say together; raises DataError where they cannot be compared."""
    found, missing = gather(selection)
    refuse(found)
    points = _points(found, confidence)
    ordered = sorted(points, key=lambda pair: (_natural(pair[1].series), pair[1].epsilon, pair[1].label))
    first = found[0]
    return Comparison(
        title=", ".join(dict.fromkeys(run.report["recipe"] for run in found)),
        data=first.report["data"],
        unit=first.guarantee.unit,
        adjacency=first.guarantee.adjacency,
        confidence=confidence,
        metric=metric_of(first),
        points=_frontier([point for _, point in ordered]),
        neighbours=tuple(_neighbours(ordered, confidence)),
        missing=tuple(missing),
        cost=search_cost(released(found), remembered(selection.folders)),
        command=command,
    )


def metric_of(run: Found) -> str:
    """What the accuracy of a run stands for."""
    return str(run.report["utility"].get("metric", "accuracy"))


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that sorts 64 before 128."""
    return [(float(part), "") if part.isdigit() else (math.inf, part) for part in re.split(r"(\d+)", text)]


# ---------------------------------------------------------------------- what cannot be compared


def refuse(found: Sequence[Found]) -> None:
    """Raise one DataError for everything that makes numbers of these runs incomparable."""
    asked: dict[str, Callable[[Found], object]] = {
        "task": lambda run: "an audit of a service" if run.report.get("guarding") else "a training",
        "data": lambda run: (run.report["data"]["name"], run.report["data"]["source"]),
        "test records": lambda run: None if _drawn_anew(run) else run.report["data"].get("test"),
        "metric": metric_of,
        "unit of privacy": lambda run: run.guarantee.unit,
        "adjacency": lambda run: run.guarantee.adjacency,
        "privacy.delta": lambda run: run.settings.get("privacy.delta", "None"),
    }
    for seed in sorted({run.seed for run in found if _drawn_anew(run)}):
        asked[f"test records of seed {seed}"] = lambda run, seed=seed: (  # type: ignore[misc]
            run.report["data"].get("test") if run.seed == seed and _drawn_anew(run) else None
        )
    keys = sorted({key for run in found for key in run.settings if key.startswith("data.")})
    asked |= {key: lambda run, key=key: run.settings.get(key) for key in keys}  # type: ignore[misc]
    problems = []
    for name, value in asked.items():
        groups: dict[str, list[str]] = {}
        for run in found:
            answer = value(run)
            if answer is not None:  # not known, where a run is read from MLflow's metrics
                said = ", ".join(map(str, answer)) if isinstance(answer, tuple) else str(answer)
                groups.setdefault(said, []).append(run.name)
        if len(groups) > 1:
            listed = "; ".join(
                f"{said} ({len(names)} {'run' if len(names) == 1 else 'runs'}, such as {names[0]})"
                for said, names in groups.items()
            )
            problems.append(f"{name} differs: {listed}")
    if problems:
        raise DataError(
            "these runs cannot be compared; choose among them by folder, --tag or --ids\n"
            + "\n".join(problems)
        )


def _drawn_anew(run: Found) -> bool:
    """Whether each seed holds other records out, so that their number differs a little from seed to seed."""
    fraction, key = run.settings.get("data.test_fraction"), run.settings.get("data.split_key", "None")
    return fraction not in (None, "None", "0", "0.0") and key == "None"


# ---------------------------------------------------------------------- points


def _points(found: Sequence[Found], confidence: float) -> list[tuple[dict[int, float], Point]]:
    """Each point, with its accuracy by seed for comparisons in pairs."""
    groups: dict[tuple[tuple[str, str], ...], list[Found]] = {}
    for run in found:
        groups.setdefault(tuple(sorted(run.settings.items())), []).append(run)
    labels = label([runs[0] for runs in groups.values()])
    return [_point(runs, name, confidence) for runs, name in zip(groups.values(), labels, strict=True)]


def _point(runs: Sequence[Found], name: Label, confidence: float) -> tuple[dict[int, float], Point]:
    stated, useful = [run.guarantee for run in runs], [run.report["utility"] for run in runs]
    void = next((each for each in stated if each.void), None)
    epsilons = [each.epsilon for each in stated]
    status = VOID if void else HOLDS if all(map(math.isfinite, epsilons)) else NONE
    accuracy = by_seed(runs, lambda report: report["utility"]["accuracy"])
    within = BELOW_ONE if metric_of(runs[0]) == "r2" else SHARE
    auroc = by_seed(runs, lambda report: report["utility"]["auroc"])
    control = by_seed(runs, lambda report: (report["control"] or {}).get("accuracy"))
    noises = [each.noise_multiplier for each in stated if each.noise_multiplier]
    bounds = [each.tpr_at_fpr.get(FPR) for each in stated]
    worst = next(each for each, epsilon in zip(stated, epsilons, strict=True) if epsilon == max(epsilons))
    least = [found for run in runs if (found := _worst(run.report)) is not None]
    of_errors = are_errors(useful[0].get("scored", ""))
    return accuracy, Point(
        label=name.text,
        series=name.series,
        status=status,
        void_reason=(void.void_reason or "") if void else "",
        epsilon=max(epsilons),
        delta=max(each.delta for each in stated),
        membership_bound=None if void else 1.0 if status == NONE else _most(bounds),
        noise_multiplier=(min(noises), max(noises)) if noises and status != NONE else None,
        sentence=(void or worst).sentence,
        interface=worst.interface or "weights",
        accuracy=spread(list(accuracy.values()), confidence, within=within),
        accuracy_ends=_ends(useful, "accuracy_"),
        auroc=_spread(auroc, confidence),
        auroc_ends=_ends(useful, "auroc_"),
        control_accuracy=_spread(control, confidence, within),
        cost=paired(control, accuracy, confidence) if control.keys() & accuracy.keys() else None,
        floor=_median([run.report["floor_accuracy"] for run in runs]),
        lines=tuple(_lines(runs, confidence, void=void is not None)),
        seeds=tuple(sorted({run.seed for run in runs})),
        runs=tuple(run.name for run in runs),
        reproduce=tuple(run.report.get("reproduce") or "" for run in runs),
        worst=_spread(
            by_seed(runs, lambda report: (_worst(report) or (None,))[0]),
            confidence,
            ABOVE_ZERO if of_errors else SHARE,
        ),
        worst_for=tuple(sorted({whom for _, whom in least})),
        by_answers=_by_answers(runs),
        guarded=guarded(runs, confidence),
    )


def _by_answers(runs: Sequence[Found]) -> dict[int, float]:
    """Of runs that give answers and no model: held-out accuracy by the number of answers, in the median."""
    measured = [{each[0]: each[1] for each in run.report.get("holdout_by_step") or ()} for run in runs]
    if any(run.report.get("mechanism") != "PrivatePrediction" for run in runs) or not all(measured):
        return {}
    return {number: statistics.median(each[number] for each in measured) for number in measured[0]}


def _worst(report: Mapping[str, Any]) -> tuple[float, str] | None:
    """The worst that a model does on a subgroup, and on which; where there are none, on a class."""
    utility = report["utility"]
    found = [
        (each["value"]["value"], each["column"], each["name"]) for each in utility.get("by_subgroup", ())
    ]
    scored = utility.get("scored", "") if found else ""
    beside = f", {words.named(scored)}" if scored else ""
    if not found:
        kind, beside = ("class", "") if utility.get("confusion") else ("label", ", AUROC")
        found = [(each["value"], kind, label) for label, each in utility.get("by_class", {}).items()]
    known = [(value, f"{costs.name(by, whom)}{beside}") for value, by, whom in found if value is not None]
    return (max if are_errors(scored) else min)(known, default=None)


def by_seed(runs: Sequence[Found], value: Callable[[Mapping[str, Any]], float | None]) -> dict[int, float]:
    """A quantity by seed; the mean where a seed was used again, so that no seed counts twice."""
    return _means((run.seed, value(run.report)) for run in sorted(runs, key=lambda run: run.seed))


def _means(found: Iterable[tuple[int, float | None]]) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for seed, number in found:
        if number is not None:
            values.setdefault(seed, []).append(number)
    return {seed: statistics.fmean(numbers) for seed, numbers in values.items()}


def _spread(
    values: Mapping[int, float], confidence: float, within: tuple[float, float] | None = SHARE
) -> Spread | None:
    return spread(list(values.values()), confidence, within=within) if values else None


def _ends(measured: Sequence[Mapping[str, Any]], of: str) -> tuple[float, float] | None:
    """The ends of the runs' own intervals, in the median; None where one of them does not say."""
    ends: list[list[float | None]] = [
        [each.get(f"{of}{end}") for each in measured] for end in ("low", "high")
    ]
    low, high = map(_median, ends)
    return None if low is None or high is None or any(None in each for each in ends) else (low, high)


def _lines(runs: Sequence[Found], confidence: float, *, void: bool) -> Iterator[Line]:
    """Every leakage metric of these runs, over their seeds; a void guarantee bounds none."""
    keys = dict.fromkeys(_key(line) for run in runs for line in run.report["leakage"])
    for attack, metric, interface in keys:
        reports = [
            (run.seed, line)
            for run in runs
            for line in run.report["leakage"]
            if _key(line) == (attack, metric, interface)
        ]
        lines = [line for _, line in reports]
        within = None if metric in NO_SHARE else SHARE

        def over_seeds(field: str, reports: Any = reports, within: Any = within) -> Spread | None:
            return _spread(_means((seed, line[field]) for seed, line in reports), confidence, within)

        measured = over_seeds("value")
        if measured is None:
            continue
        verdicts = [line["verdict"] for line in lines if line["verdict"]]
        yield Line(
            attack=attack,
            metric=metric,
            interface=interface,
            measured=measured,
            low=_median([line["low"] for line in lines]),
            high=_median([line["high"] for line in lines]),
            floor=_median([line["floor"] for line in lines]),
            control=over_seeds("control"),
            control_ends=_ends([line for line in lines if line["control"] is not None] or lines, "control_"),
            bound=None if void else _most([line["bound"] for line in lines]),
            verdicts={verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
            fpr=_most([line.get("details", {}).get("fpr_upper") for line in lines]),
        )


def _key(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return line["attack"], line["metric"], line["interface"]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _most(values: Sequence[float | None]) -> float | None:
    """The largest; None if any is not known, for then none bounds all."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


# ---------------------------------------------------------------------- between points


def _frontier(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, those marked that no other beats in both accuracy and proved bound."""

    def beaten(point: Point) -> bool:
        return any(
            other.membership_bound <= point.membership_bound
            and other.accuracy.centre >= point.accuracy.centre
            and (other.membership_bound, other.accuracy.centre)
            != (point.membership_bound, point.accuracy.centre)
            for other in points
            if other.private and other.membership_bound is not None and point.membership_bound is not None
        )

    return tuple(
        replace(point, pareto=point.private and point.membership_bound is not None and not beaten(point))
        for point in points
    )


def _neighbours(
    ordered: Sequence[tuple[Mapping[int, float], Point]], confidence: float
) -> Iterator[Neighbours]:
    """Accuracy of each point beside the next of its series; of all, where no series has a second point."""
    holding = [each for each in ordered if each[1].status != VOID]
    joined = any(one.series == other.series for (_, one), (_, other) in pairwise(holding))
    for (before, one), (after, other) in pairwise(holding):
        if joined and one.series != other.series:
            continue
        compared = (
            paired(before, after, confidence)
            if before.keys() & after.keys()
            else Paired(
                difference=spread([other.accuracy.centre - one.accuracy.centre], confidence),
                pairs=0,
                p_value=None,
                test="no seed in common",
            )
        )
        yield Neighbours(before=one.label, after=other.label, quantity="accuracy", paired=compared)
