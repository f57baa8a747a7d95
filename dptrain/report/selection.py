"""Sentences about a private selection: before it, of a trial, and of the model that it releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dptrain.contracts import Report, SelectionTerms, Statement
from dptrain.report import words

DISTRIBUTIONS = {
    "geometric": "geometric",
    "logarithmic": "logarithmic",
    "negative_binomial": "truncated negative binomial",
    "poisson": "Poisson",
}
RELEASED = (
    "the final weights and settings of the best of a random number of trainings, if this is the one that "
    "was selected; neither the others nor how many there were"
)
TERMS = ("epsilon_alone", "distribution", "mean_runs", "shape", "candidates", "score", "theorem")
TEAM_ONLY = (
    "These are the trials of a private selection, and this page is for the team. Release none of it: whoever "
    "sees it holds what all trials spend together, and so does whoever is given another model than the "
    "selected one."
)


def as_released(report: Report) -> Report:
    """The report of a trial as those who are given the selected model must read it; others as they are.

    The guarantee is the selection's. What attacks measured stays behind: it was held against the
    bounds of a single training.
    """
    guarantee = released(report.guarantee)
    if guarantee is report.guarantee:
        return report
    return replace(report, guarantee=guarantee, leakage=(), exposed=())


def released(stated: Statement) -> Statement:
    """What is stated of a trial, as of the selected model; of others, and of a void one, as it is."""
    terms = stated.selection
    if terms is None or stated.void:
        return stated
    return replace(
        stated,
        epsilon=terms.epsilon,
        delta=terms.delta,
        tpr_at_fpr=terms.tpr_at_fpr,
        accountant=terms.accountant,
        sentence=terms.sentence,
        released=RELEASED,
        cross_checks={},
        selection=None,
        selected_from=terms,
    )


def search(stated: Statement) -> dict[str, Any]:
    """How settings were chosen, for the statement: of a trial as it is released, nothing of a void one."""
    terms, data = stated.selected_from, stated.tuned_on
    if terms is not None or stated.selection is not None:
        kind = "private_selection"
    else:
        kind = "not_counted" if data is None else "public_data"
    return {
        "kind": kind,
        "tuned_on": data,
        "selection": None if terms is None else {name: getattr(terms, name) for name in TERMS},
    }


def agreed(terms: SelectionTerms) -> Iterator[tuple[str, str]]:
    """What a selection is going to cost, in named lines, before its number of trials is drawn."""
    yield (
        "selection",
        f"best of a random number of trainings by {terms.score}, each drawn from {terms.candidates} "
        f"candidates; {_number(terms)}",
    )
    yield (
        "",
        f"those who see the selected model and nothing else hold ε = {words.epsilon(terms.epsilon)} at "
        f"δ = {words.delta(terms.delta)}, per {terms.unit}, whichever candidates are drawn "
        f"(each training by itself: ε ≤ {words.epsilon(terms.epsilon_alone)})",
    )


def selected(chosen: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What came of a selection, in named lines."""
    if chosen is None:
        yield (
            "selected",
            "none: no training was drawn or none succeeded. That is the outcome of this search; another one "
            "spends as much again",
        )
        return
    drawn = " ".join(chosen["settings"])
    yield "selected", f"{chosen['trial']}: {drawn}; {chosen['score']} {chosen['scored']:.4g}"
    yield (
        "",
        f"release the folder {chosen['release']}/ and nothing else of this sweep: "
        f"ε = {words.epsilon(chosen['epsilon'])} at δ = {words.delta(chosen['delta'])}, per {chosen['unit']}",
    )


def cost(terms: SelectionTerms) -> str:
    """What the selection's epsilon rests on, and for whom it holds."""
    return (
        f"At δ = {words.delta(terms.delta)}, for those who see the selected model and its settings, and "
        f"nothing else of the search ({terms.theorem}). Of the trainings {_number(terms)}; each drew its "
        f"settings in secret from {terms.candidates} candidates, and the best is chosen by {terms.score}, on "
        "records of which no number here says anything."
    )


def _number(terms: SelectionTerms) -> str:
    named = DISTRIBUTIONS[terms.distribution]
    shape = f" of shape {terms.shape:g}" if terms.distribution == "negative_binomial" else ""
    return (
        f"the number is secret, {named}{shape}, {terms.mean_runs:g} on average and at most "
        f"{terms.runs_99} in 99 of 100 searches"
    )
