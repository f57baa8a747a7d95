"""What a search costs: each model alone, all of them released, the best one selected."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from dptrain.contracts import Plan, Statement, SweepTotal
from dptrain.contracts.rounding import rounded_up_to
from dptrain.privacy import filter as privacy_filter
from dptrain.privacy.accountant import FINEST
from dptrain.privacy.dense_losses import self_composed
from dptrain.privacy.noise.cost import MOST_DRAWS, stated_epsilon
from dptrain.privacy.written import plan_from_json, plan_of
from dptrain.report.comparison.points import SearchCost
from dptrain.report.selection import cost

COMPOSED = "the losses of all, composed"
ADDED = "the Rényi divergences of all, added up, for results chose what was trained next"
UNCOVERED = (
    "results chose what was trained next, and a model trained with privacy.adjacency=replace_one is among "
    "them, for which no sum is proved; compare it apart from the search"
)
UNKNOWN = (
    "a sweep has counted a training by a mechanism that is not at hand, so no sum is proved; compare it "
    "where the mechanism's module is imported"
)
TOO_LARGE = (
    "no number is proved: delta {delta} is not below 1 / {units:,}, and to publish one of so many outright "
    "would satisfy it; train with a smaller privacy.delta"
)
SELECTED = (
    "Not covered by the epsilon of the model alone. Of the training records, the composition covers it, "
    "as if all were released; of the held-out and test records that the choice looked at, no number here "
    "does. Only a selection that is itself private has a smaller price."
)
OUTSIDE = (
    "Not covered: figures of a model among these were measured with noise that is not paid for, outside of "
    "its guarantee, so that no number here covers a choice by them."
)
MIXED = (
    "A private selection covers the best of its own trials. To choose among these runs is another choice, "
    "which its epsilon does not count."
)


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A training of which no statement tells a plan, as its sweep remembers it.

    It has no report, for it failed, is at work, or is gone; or its mechanism's plan is in no statement.
    """

    sweep: str | None  # its id, where it is limited
    plan: Plan | None  # None: of a mechanism that is not at hand
    draws: int
    unit: str | None
    reported: bool


def search_cost(statements: Sequence[Statement], remembered: Sequence[Remembered] = ()) -> SearchCost:
    """The price of the runs with these privacy statements, at their largest delta.

    Together, and with what began beside them, they bound what is learnt of any record that they trained on;
    the twins are never released and not among them.
    """
    holding = [each for each in statements if not each.void]
    private = [each for each in holding if math.isfinite(each.epsilon)]
    untold = [each for each in private if plan_of(each) is None and not _counted(each)]
    delta = max(each.delta for each in statements)
    void = sum(bool(each.void) for each in statements)
    beside = [each for each in remembered if each.unit in (None, statements[0].unit)]
    told = sum(each.reported and each.plan is not None for each in beside)
    left_out = {
        "void, and nobody can bound what that adds": void,
        "not private, and whoever sees that has no guarantee at all": len(statements) - void - len(private),
        "recorded without a plan, and what that adds is not known here": max(0, len(untold) - told),
        "private by another unit, and without a report": len(remembered) - len(beside),
    }
    covered = not (any(map(_chosen_outside, statements)) or any(map(_measured_outside, beside)))
    together, rule, models = _together(private, beside, delta)
    units = max((each.units or 0 for each in private), default=0)
    if delta * units >= 1.0:
        together, rule = None, TOO_LARGE.format(delta=rounded_up_to(delta, 6), units=units)
    return SearchCost(
        alone=max((each.epsilon for each in private), default=math.inf),
        together=together,
        rule=rule,
        delta=delta,
        models=models,
        left_out=tuple(
            f"{count} {'model is' if count == 1 else 'models are'} {why}"
            for why, count in left_out.items()
            if count
        ),
        **_selected(statements, covered=covered),
        tuned_on=tuple(dict.fromkeys(each.tuned_on for each in statements if each.tuned_on)),
    )


def _together(
    statements: Sequence[Statement], remembered: Sequence[Remembered], delta: float
) -> tuple[float | None, str, int]:
    """Epsilon of these runs, and all else that their sweeps have counted or begun; its rule, how many.

    Where in any of them results chose the trainings, all are added up by a Rényi order, as the filters of
    those searches do. Proved is the sum by the order of the search that began first, which no result can have
    chosen; nobody knows here which that was, and so it is the largest sum by any of their orders.
    """
    own: dict[str | None, list[tuple[Plan, int]]] = defaultdict(list)  # by the id of a limited sweep
    totals: dict[str, SweepTotal] = {}  # what was counted last
    for each in statements:
        total = each.sweep
        limited = total.id if total is not None and _counted(each) else None
        if total is not None and limited is not None:
            totals[limited] = max(totals.get(limited, total), total, key=lambda one: len(one.plans or ()))
        beside = own[limited]  # which is there too where statements hold no plans, as totals do
        if (stated := plan_of(each)) is not None:
            beside.append((stated, drawn(each)))
    for one in remembered:
        if one.plan is None:
            return None, UNKNOWN, len(statements)
        own[one.sweep].append((one.plan, one.draws))
    plans: list[Plan] = []
    numbers = 0
    for sweep, trainings in own.items():
        there, draws = [plan for plan, _ in trainings], sum(draws for _, draws in trainings)
        if sweep in totals:
            counted = [plan_from_json(plan) for plan in totals[sweep].plans or ()]
            if None in counted:
                return None, UNKNOWN, len(statements)
            more = Counter(plan for plan in counted if plan is not None) - Counter(there)
            there += more.elements()
            told = totals[sweep].draws
            draws = max(draws, len(counted) * MOST_DRAWS if told is None else told)
        plans += there
        numbers += draws
    said = _with(len(plans) - len(statements))
    orders = {total.order for total in totals.values() if total.order is not None}
    if not orders:
        return composed(plans, delta, draws=numbers), COMPOSED + said, len(plans)
    if any(plan.adjacency != "add_remove" for plan in plans):
        return None, UNCOVERED, len(plans)
    most = max(privacy_filter.spent(plans, delta, order, draws=numbers) for order in orders)
    return most, ADDED + said, len(plans)


def _counted(statement: Statement) -> bool:
    """Whether a run is of a limited sweep, which tells all that it has counted."""
    total = statement.sweep
    return total is not None and total.plans is not None and total.id is not None


def _with(more: int) -> str:
    """That trainings without a report are among what a number holds of."""
    return f"; {more} more of them {'has' if more == 1 else 'have'} no report here" if more > 0 else ""


def drawn(statement: Statement) -> int:
    """How many numbers of noise a run drew; where its statement does not say, the most that any may."""
    found = statement.randomness
    return MOST_DRAWS if found is None or found.draws is None else found.draws


def _measured_outside(one: Remembered) -> bool:
    """Whether figures of this training are outside of its guarantee."""
    return bool(getattr(one.plan, "measured_outside", False))


def _chosen_outside(statement: Statement) -> bool:
    """Whether those of a training are that its sweep has met."""
    return statement.sweep is not None and not statement.sweep.choice_covered


def _selected(statements: Sequence[Statement], *, covered: bool) -> dict[str, Any]:
    """What the best costs: a number only where all of these are trials of one private selection."""
    terms = [each.selection for each in statements]
    if None not in terms and len({each.search for each in terms if each is not None}) == 1:
        void = any(each.void for each in statements)
        agreed = terms[0]
        assert agreed is not None
        return {"selected": None if void else agreed.epsilon, "selection": cost(agreed)}
    return {"selected": None, "selection": MIXED if any(terms) else SELECTED if covered else OUTSIDE}


def composed(plans: Sequence[Plan], delta: float, *, draws: int) -> float | None:
    """Epsilon at `delta` of all these plans, one after another; None of none.

    All together add `draws` numbers of noise, whose cost is in it. Where they differ in what neighbouring
    data are, it is the larger of what holds of all for the one kind and for the other.

    >>> from dptrain.privacy.accountant import DPSGDPlan
    >>> plan = DPSGDPlan(units=9, sample_rate=1.0, steps=1, expected_batch_size=9, max_grad_norm=1.0,
    ...             noise_multiplier=4.0)
    >>> composed([plan, plan], 1e-5, draws=20) > composed([plan], 1e-5, draws=10)
    True
    """
    if len(kinds := {plan.adjacency for plan in plans}) > 1:
        return max(_for_all(plans, kind, delta, draws=draws) for kind in sorted(kinds))
    loss, interval = None, max((plan.interval for plan in plans), default=FINEST)
    for plan, count in Counter(plans).items():
        each = self_composed(plan.loss(interval=interval), count)
        loss = each if loss is None else loss.compose(each)
    return None if loss is None else stated_epsilon(loss, draws, delta=delta)


def _for_all(plans: Sequence[Plan], adjacency: str, delta: float, *, draws: int) -> float:
    """Epsilon of all these plans for neighbours of this kind; infinite where one does not tell."""
    alike: list[Plan] = []
    for plan in plans:
        if plan.adjacency == adjacency:
            alike.append(plan)
        elif is_dataclass(plan) and "adjacency" in {each.name for each in fields(plan)}:
            alike.append(replace(plan, adjacency=adjacency))
        else:
            return math.inf
    epsilon = composed(alike, delta, draws=draws)
    assert epsilon is not None
    return epsilon
