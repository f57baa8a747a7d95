"""What a search costs: each model alone, all of them released, the best one selected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dptrain.contracts import Plan
from dptrain.privacy import accountant
from dptrain.report.points import SearchCost
from dptrain.report.selection import cost

SELECTED = (
    "Not covered by the epsilon of the model alone. Of the training records, the composition covers it, "
    "as if all were released; of the held-out and test records that the choice looked at, no number here "
    "does. Only a selection that is itself private has a smaller price."
)
MIXED = (
    "A private selection covers the best of its own trials. To choose among these runs is another choice, "
    "which its epsilon does not count."
)


def search_cost(statements: Sequence[Mapping[str, Any]]) -> SearchCost:
    """The price of the runs with these privacy statements, at their largest delta.

    Their privacy loss distributions are composed, which bounds what is learnt of any record that
    they trained on; the twins are never released and not among them.
    """
    holding = [each for each in statements if not each["void"] and each["epsilon"] is not None]
    private = [each for each in holding if math.isfinite(each["epsilon"])]
    known = [plan for plan in map(plan_of, private) if plan is not None]
    delta = max(each["delta"] for each in statements)
    void = sum(bool(each["void"]) for each in statements)
    left_out = {
        "void, and nobody can bound what that adds": void,
        "not private, and whoever sees that has no guarantee at all": len(statements) - void - len(private),
        "recorded without a plan, and what that adds is not known here": len(private) - len(known),
    }
    return SearchCost(
        alone=max((each["epsilon"] for each in private), default=math.inf),
        together=_together(known, delta, statements),
        delta=delta,
        models=len(known),
        left_out=tuple(
            f"{count} {'model is' if count == 1 else 'models are'} {why}"
            for why, count in left_out.items()
            if count
        ),
        **_selected(statements),
        tuned_on=tuple(dict.fromkeys(each["tuned_on"] for each in statements if each.get("tuned_on"))),
    )


def _together(plans: Sequence[Plan], delta: float, statements: Sequence[Mapping[str, Any]]) -> float | None:
    """Epsilon of all these plans, and no less than a sweep counted that limits what it spends.

    Such a sweep counts trainings that failed too, and sums otherwise where results chose the trainings.
    """
    together = composed(plans, delta)
    limited = (each["sweep"] for each in statements if "max_epsilon" in each.get("sweep", {}))
    counted = [each["epsilon_counted"] for each in limited]
    return together if together is None else max([together, *counted])


def _selected(statements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the best costs: a number only where all of these are trials of one private selection."""
    terms = [each.get("selection") for each in statements]
    if None not in terms and len({each["search"] for each in terms if each is not None}) == 1:
        void = any(each["void"] for each in statements)
        agreed = terms[0]
        assert agreed is not None
        return {"selected": None if void else agreed["epsilon"], "selection": cost(agreed)}
    return {"selected": None, "selection": MIXED if any(terms) else SELECTED}


def composed(plans: Sequence[Plan], delta: float) -> float | None:
    """Epsilon at `delta` of all these plans, one after another; None of none.

    >>> plan = Plan(units=9, sample_rate=1.0, steps=1, expected_batch_size=9, max_grad_norm=1.0,
    ...             noise_multiplier=4.0)
    >>> composed([plan, plan], 1e-5) > composed([plan], 1e-5)
    True
    """
    loss, interval = None, max(map(accountant.grid, plans), default=accountant.FINEST)
    for plan, count in Counter(plans).items():
        each = accountant.privacy_loss(plan, interval=interval).self_compose(count)
        loss = each if loss is None else loss.compose(each)
    return None if loss is None else float(loss.get_epsilon_for_delta(delta))


def plan_of(statement: Mapping[str, Any]) -> Plan | None:
    """The plan that a statement describes; None where it does not say enough."""
    stated = {
        key: statement.get(key)
        for key in (
            "units", "sample_rate", "steps", "expected_batch_size", "max_grad_norm", "noise_multiplier",
            "clipping", "adjacency",
        )
    }  # fmt: skip
    sampling = statement.get("sampling_run")
    if sampling is None or None in stated.values():
        return None
    return Plan(**stated, sampling=sampling)  # type: ignore[arg-type]
