"""How a run's settings are chosen: its score, and what is said of it beside its guarantee."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dptrain import report as documents
from dptrain.config import Config
from dptrain.contracts import ConfigError, DptrainError, Plan, Report, SelectionTerms, Statement, Task
from dptrain.privacy.guarantee import CHOOSING
from dptrain.privacy.written import part, plan_to_json
from dptrain.report import words
from dptrain.report.document import as_json
from dptrain.runs import folder as runs
from dptrain.runs.keyed import keyed
from dptrain.sweep import state as sweeps


def refuse_uncovered(config: Config, plan: Plan | None, records: str, folder: Path) -> None:
    """Raise DptrainError where a trial is not what the selection's epsilon was computed for."""
    agreed = sweeps.read_state(folder.parent).agreed
    if plan is None or plan_to_json(plan) not in agreed.plans:
        raise DptrainError(
            f"sweep.trial={config.sweep.trial}: its plan ({plan}) is none of those that the selection's "
            "epsilon was computed for; go on with the data and the versions that the sweep was begun with"
        )
    if keyed(folder.parent, records) != agreed.records:
        raise DptrainError(
            f"sweep.trial={config.sweep.trial}: the training records are others than the sweep was begun "
            "with; go on with the same data, or start a new sweep"
        )


def keep_score(report: Report, name: str) -> None:
    """Keep a training's score before anything attacks it; a run that goes on keeps the score that it had.

    Raises ConfigError where the report holds no such score.
    """
    # Papernot & Steinke ask of a run that all of it is private that decides which is selected: its score,
    # and whether it has one. Both come of the noisy weights alone, here, and of records that no guarantee
    # is about. How the attacks end comes of the training records themselves, and must decide nothing: not
    # the score, not what is released, and not what a search tries next. A broken guarantee alone stops a
    # release: there is no promise left to keep then.
    if kept_score(report.folder) is None:
        runs.remember(report.folder, score=score(as_json(report), name))


def release_trial(report: Report, name: str) -> None:
    """Keep a trial's score, and what is released of it if it is selected."""
    documents.write_published(report)
    keep_score(report, name)


def kept_score(folder: Path) -> float | None:
    """The score that a run's training ended with, larger is better; None where it has not ended."""
    return runs.read_state(folder).score


def score(report: Mapping[str, Any], name: str) -> float:
    """A finished training's score, larger is better; the worst where it is not a number."""
    where, metric = name.split(".")
    if where == "test":
        value = report["utility"][metric]
    elif report["holdout_by_step"]:
        value = report["holdout_by_step"][-1][1 if metric == "accuracy" else 2]
    else:
        raise ConfigError(
            f"sweep.score={name}: the trials report nothing of held-out records; use test.accuracy"
        )
    if value is None or math.isnan(value):
        return -math.inf
    return -float(value) if metric == "loss" else float(value)


def named(name: str, task: Task) -> str:
    """A score by the name of what it is for this task; raises ConfigError where the task has none such.

    >>> from dptrain.tasks import Regression
    >>> named("holdout.accuracy", Regression(bounds=(0.0, 9.0)))
    'holdout.r2'
    """
    where, metric = name.split(".")
    if metric == "auroc" and task.metric == "r2":
        raise ConfigError(
            f"sweep.score={name}: numbers have no AUROC; use {where}.accuracy, which stands "
            "for the task's metric"
        )
    return f"{where}.{task.metric}" if metric == "accuracy" else name


def terms_of(sweep_folder: Path) -> SelectionTerms:
    """The terms of the private selection in this folder."""
    agreed = sweeps.read_state(sweep_folder).agreed
    return part(SelectionTerms, agreed.terms, f"{sweep_folder}: selection")


def tuned_on_public(statement: Statement, data: str) -> Statement:
    """The statement of a model whose settings were all found on public data."""
    said = (
        f"Its hyper-parameters were chosen on public data ({data}), as its configuration declares, and so "
        "their choice spends nothing of these records' privacy; choosing among runs on these records would."
    )
    return replace(
        statement,
        tuned_on=data,
        sentence=f"{statement.sentence} {said}",
        outside_guarantee=tuple(
            f"That hyper-parameters were chosen on public data ({data}) is declared, and not checked."
            if each == CHOOSING
            else each
            for each in statement.outside_guarantee
        ),
    )


def as_trial(statement: Statement, terms: SelectionTerms) -> Statement:
    """The statement of a trial: its own guarantee, and the terms on which it may be selected.

    Neither the trial's number nor how many there are is told: the theorem takes both to be secret.
    """
    others = [each for each in statement.outside_guarantee if each != CHOOSING]
    return replace(
        statement,
        sentence=statement.sentence if statement.void else f"{statement.sentence} {terms.sentence}",
        selection=terms,
        outside_guarantee=(*outside(terms), *others),
    )


def outside(terms: SelectionTerms) -> tuple[str, ...]:
    """What a private selection does not cover, one sentence each."""
    kept, metric = terms.score.split(".")
    where = {"holdout": "held-out", "test": "test"}[kept]
    sentences = (
        "This run is a trial of a private selection. Unless it is the one that was selected, its weights, "
        "its statement, its model card and its reports must not leave the team.",
        "The selection's epsilon protects against those who see the selected model and its settings, and "
        "nothing else of the search. Whoever sees other trials, their runs in MLflow, the comparison, or how "
        "many trials there were holds what all trials spend together.",
        "It holds for one search: another one, begun after looking at results, spends as much again.",
        f"The score, {words.named(metric)} on {where} records, was computed on those records without "
        "protection.",
    )
    if kept == "test":
        return (
            *sentences,
            "The selected model was chosen by its test records, so what it does on them is flattering.",
        )
    return sentences
