"""What a search may spend, stated in advance: a job that would go beyond is refused before it trains.

A job is counted when it begins, under a lock, so that jobs that run side by side count each other,
and for good: one that failed may have told something before.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dptrain.contracts import ConfigError, Plan, SweepTotal
from dptrain.contracts.rounding import rounded_up
from dptrain.privacy import filter as privacy_filter
from dptrain.privacy.written import part, plan_from_json
from dptrain.sweep import state as sweeps
from dptrain.sweep.cost import composed


def begin(folder: Path, *, max_epsilon: float | None, direction: str | None) -> None:
    """Note that in this sweep earlier results choose the later jobs, and what all of them may spend.

    Raises ConfigError where that is not stated or was stated otherwise before, and where the search
    would be for the worst model.
    """
    if max_epsilon is None:
        raise ConfigError(
            "sweep.max_epsilon=null: a search in which results choose the next job spends privacy with each "
            "of them; give the most that all its trainings may spend together, such as sweep.max_epsilon=8"
        )
    if direction not in (None, "maximize"):
        raise ConfigError(
            f"hydra.sweeper.direction={direction} would search for the worst model, for of every sweep.score "
            "more is better (a loss is counted below zero); give hydra.sweeper.direction=maximize"
        )
    with sweeps.changing(folder) as state:
        if state.search is None and sweeps.trainings(folder):
            raise ConfigError(
                f"sweep.resume={folder}: trainings have begun there that were no part of a search; their "
                "results may have chosen this one, and its rule holds where it was fixed before any. Start a "
                "new search"
            )
        state.search = state.search or sweeps.Search(max_epsilon=max_epsilon)
        if state.search.max_epsilon != max_epsilon:
            raise ConfigError(
                f"sweep.max_epsilon={max_epsilon:g}: this search was begun with "
                f"{state.search.max_epsilon:g}, and results must not change what it may spend; leave "
                "it so, or start a new search"
            )


def searching(folder: Path) -> bool:
    """Whether in this sweep earlier results choose the later jobs."""
    return sweeps.read_state(folder).search is not None


def reserve(
    folder: Path,
    job: str,
    plan: Plan | None,
    *,
    delta: float,
    draws: int,
    unit: str,
    max_epsilon: float | None,
) -> None:
    """Count a job's training as spent, unless it was before, in a sweep that may spend so much only.

    So are trainings that began in it before it had a limit; one that it had holds on where a later job
    names none. The total is at the smallest delta of any job, so that it holds at every one. Raises
    ConfigError, counting nothing, where it would be more than `max_epsilon`, or than a search was begun with.
    """
    with sweeps.changing(folder) as state:
        search = state.search
        if search is not None and getattr(plan, "measured_outside", False):
            raise ConfigError(
                "mechanism=private_prediction: its figures come of the training records, outside its "
                "guarantee, so that no search may look at them; use another mechanism, or a sweep over a grid"
            )
        limit = max_epsilon if max_epsilon is not None else state.limit
        limit = limit if search is None else search.max_epsilon
        if limit is None:
            return
        if plan is None:
            raise ConfigError(
                f"sweep.max_epsilon={limit:g}: a training without privacy, or one that is void, stays within "
                "no epsilon; leave it out of the sweep, or set sweep.max_epsilon=null in a new one"
            )
        mine = sweeps.spent_of(plan, delta=delta, draws=draws, unit=unit)
        counted = _with(job, mine, state.spent, {**sweeps.trainings(folder), **state.spent}, limit)
        if search is not None and search.order is None:
            order = privacy_filter.best_order(plan, delta, limit)
            state.search = search = sweeps.Search(max_epsilon=search.max_epsilon, order=order)
        total = _total(counted, search)
        if total > limit:
            others = len(counted) - 1
            raise ConfigError(
                f"sweep.max_epsilon={limit:g}: this training would bring the sweep, of which {others} "
                f"{'training is' if others == 1 else 'trainings are'} counted, to epsilon "
                f"{rounded_up(total, 2)}; it is not begun. Ask for fewer or cheaper trainings, or allow more"
            )
        state.spent, state.limit = counted, limit
        state.id = state.id or secrets.token_hex(8)


def _with(
    job: str,
    mine: sweeps.Spent,
    before: Mapping[str, sweeps.Spent],
    begun: Mapping[str, sweeps.Spent | None],
    limit: float,
) -> dict[str, sweeps.Spent]:
    """All that a sweep with this limit has spent, with this job; raises ConfigError where it has no sum."""
    if (was := before.get(job)) is not None:
        if (was.plan, was.delta) != (mine.plan, mine.delta):
            raise ConfigError(
                f"sweep.max_epsilon={limit:g}: {job} was counted with another plan or delta, and may have "
                "told something by it; go on with the records and settings that it was begun with, or start "
                "a new run"
            )
        mine = mine.model_copy(update={"draws": max(was.draws, mine.draws)})
    others = {name: each for name, each in begun.items() if name != job}
    known = {name: each for name, each in others.items() if each is not None}
    if unknown := len(others) - len(known):
        raise ConfigError(
            f"sweep.max_epsilon={limit:g}: {unknown} of the trainings that began here are not private, or "
            "void, so the sweep stays within no epsilon; start a new one"
        )
    if units := sorted({each.unit for each in known.values() if each.unit not in (None, mine.unit)}):
        raise ConfigError(
            f"sweep.max_epsilon={limit:g}: this training is private by the unit {mine.unit}, others here by "
            f"{', '.join(map(str, units))}, and nothing holds of them together; give each a sweep of its own"
        )
    return {**known, job: mine}


def stated(job: Path, plan: Plan, delta: float, *, draws: int, unit: str) -> SweepTotal:
    """What a job's statement says of its sweep: what its models spend together, and how much of a limit.

    Together is no less than is counted: where results chose the trainings, the composition alone
    proves nothing, and the filter's total does.
    """
    together = sweeps.spent_together(job, plan, delta, draws=draws, unit=unit)
    limited = counted(job.parent)
    if limited:
        together["epsilon_together"] = max(together["epsilon_together"], limited["epsilon_counted"])
    return part(SweepTotal, {**together, **limited}, f"{job.parent}: sweep")


def counted(folder: Path) -> dict[str, Any]:
    """What a statement says of what a sweep may spend: how much is counted by now, and by which rule."""
    state = sweeps.read_state(folder)
    if not state.spent:
        return {}
    search = state.search
    return {
        "max_epsilon": state.limit,
        "epsilon_counted": _total(state.spent, search),
        "counted": len(state.spent),
        "id": state.id,
        "plans": [each.plan for each in state.spent.values()],
        "draws": sum(each.draws for each in state.spent.values()),
        "order": None if search is None else search.order,
        "rule": "privacy loss distributions composed: holds where the trainings were chosen in advance"
        if search is None
        else f"Rényi filter of order {search.order:g}: results chose the trainings",
    }


def _total(spent: Mapping[str, sweeps.Spent], search: sweeps.Search | None) -> float:
    """Epsilon of all these trainings; by the filter of a search where results chose them."""
    found = [plan_from_json(each.plan) for each in spent.values()]
    plans = [plan for plan in found if plan is not None]
    if len(plans) < len(found):
        raise ConfigError(
            "sweep.max_epsilon: the sweep has counted a training by a mechanism that is not at hand; go on "
            "with all that it was begun with"
        )
    delta = min(each.delta for each in spent.values())
    draws = sum(each.draws for each in spent.values())
    if search is not None:
        assert search.order is not None
        return privacy_filter.spent(plans, delta, search.order, draws=draws)
    total = composed(plans, delta, draws=draws)
    assert total is not None
    return total
