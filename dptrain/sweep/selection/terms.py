"""The terms of a private selection, fixed before anything is drawn: what may run, what is proved."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dptrain.assembly.components import assemble
from dptrain.assembly.records import load_splits
from dptrain.assembly.values import make_budget, make_streams
from dptrain.config import Config
from dptrain.contracts import ConfigError
from dptrain.contracts.rounding import rounded_up, rounded_up_to
from dptrain.evaluation.assignment import declared_units, prepare
from dptrain.privacy import selection
from dptrain.privacy.accountant import most_true_positives
from dptrain.privacy.guarantee import delta_meaning
from dptrain.privacy.noise.cost import stated_epsilon
from dptrain.privacy.written import plan_to_json
from dptrain.sweep.score import named
from dptrain.sweep.selection import candidates
from dptrain.tasks import task_of

ELSEWHERE = (
    "name",
    "output",
    "resume",
    "performance",
    "device",
    "tracking",
    "serve",
    "serving",
)  # where and how it runs, not what


def count_of(config: Config) -> selection.RunCount:
    """The distribution of the number of trials."""
    asked = config.sweep
    return selection.RunCount.named(asked.distribution, mean=asked.mean_runs, shape=asked.shape)


def refuse(swept: Sequence[str], sweeper: str) -> None:
    """Raise ConfigError where a sweep would run more than its trials, or choose them by results."""
    problems = [
        f"{word}: a private selection runs nothing but its trials; give values to draw in sweep.candidates"
        for word in swept
    ]
    if sweeper != "basic":
        problems.append(
            f"hydra/sweeper={sweeper} chooses trials by the results of others; a private selection draws "
            "each by itself: leave it out"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def refuse_changes(asked: Mapping[str, Any], values: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError naming what differs from what a selection was begun with."""
    changed = sorted(_differing(asked, comparable(values)))
    if changed:
        raise ConfigError(
            f"{where}: {', '.join(changed)} is not as the selection was begun with, so its epsilon would not "
            "hold; leave it as it was, or start a new sweep"
        )


def agree(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is fixed before anything is drawn: the plans of all candidates, and what the selection proves."""
    parts = assemble(config)
    streams = make_streams(config)
    splits = load_splits(parts.source, streams)
    units = declared_units(config.training)
    splits, assignments = prepare(splits, parts.played, config.evidence, streams, units)
    found = candidates.tried(config, values, splits, streams)
    count, budget = count_of(config), make_budget(config, splits)
    delta = budget.delta
    target, single = config.sweep.selection_epsilon, None
    if target is not None:
        single = candidates.single_epsilon(found, splits, count, delta, target)
    drawn = candidates.plans(found, splits, single)
    plans = list(drawn)
    loss = selection.selected(selection.mixture(plans), count)
    epsilon, spent = selection.stated(loss, count, max(drawn.values()), delta=delta)
    privacy, asked = config.privacy, config.sweep
    meaning = delta_meaning(delta, budget.unit, plans[0].units if budget.units_public else None)
    terms = {
        "search": secrets.token_hex(8),  # tells one search from another, and nothing else
        "epsilon": epsilon,
        "delta": delta,
        "tpr_at_fpr": {str(fpr): most_true_positives(loss, fpr, spent) for fpr in (0.001, 0.01)},
        "epsilon_alone": max(
            stated_epsilon(plan.loss(), draws, delta=delta) for plan, draws in drawn.items()
        ),
        "unit": budget.unit,
        "distribution": asked.distribution,
        "mean_runs": asked.mean_runs,
        "shape": None if math.isinf(count.shape) else count.shape,
        "runs_99": count.quantile(0.99),
        "candidates": math.prod(map(len, asked.candidates.values())),
        "score": named(asked.score, task_of(splits)),
        "theorem": count.theorem,
        "accountant": selection.NAME,
        "sentence": _sentence(epsilon, delta, budget.unit, privacy.adjacency, meaning),
    }
    return {
        "asked": comparable(values),
        "records": assignments.fingerprint(splits),
        "plans": [plan_to_json(plan) for plan in plans],
        "single_epsilon": single,
        "terms": terms,
    }


def _sentence(epsilon: float, delta: float, unit: str, adjacency: str, meaning: str) -> str:
    change = {"add_remove": "added or removed", "replace_one": "replaced by any other"}[adjacency]
    return (
        "If this run is the one that its search selected, then to those who see the selected model, its "
        f"settings, and nothing else of the search: when one {unit} is {change}, the probability of any "
        f"outcome of the whole search changes by at most a factor of exp({rounded_up(epsilon, 2)}), but for "
        f"a probability of {rounded_up_to(delta, 6)}. {meaning}"
    )


def comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what may differ between the trials of one selection, as JSON has it."""
    kept = {key: value for key, value in values.items() if key not in ELSEWHERE}
    kept["sweep"] = {key: value for key, value in values["sweep"].items() if key not in ("trial", "resume")}
    return json.loads(json.dumps(kept))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted keys in which two configurations differ."""
    for key in {**one, **other}:
        before, after = one.get(key), other.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, f"{above}{key}.")
        elif before != after:
            yield f"{above}{key}"
