"""The candidates of a private selection: every combination of declared values, and the plans they come to."""

from __future__ import annotations

import copy
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from dptrain.assembly.build import build
from dptrain.assembly.components import assemble
from dptrain.assembly.model import make_model
from dptrain.assembly.records import declare_public
from dptrain.assembly.values import make_budget, make_streams
from dptrain.config import Config, parse
from dptrain.contracts import ConfigError, Mechanism, Plan, Splits, Streams
from dptrain.privacy import selection
from dptrain.privacy.noise.cost import draws_of

MOST_GUESSES = 20  # four are the rule, each of which calibrates every plan


def combinations(config: Config) -> Iterator[dict[str, Any]]:
    """Every combination of the values declared, by dotted key."""
    for values in itertools.product(*config.sweep.candidates.values()):
        yield dict(zip(config.sweep.candidates, values, strict=True))


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some of its keys, dotted, set anew.

    >>> with_settings({"optimizer": {"lr": 0.1, "momentum": 0.9}}, {"optimizer.lr": 1.0})
    {'optimizer': {'lr': 1.0, 'momentum': 0.9}}
    """
    changed = copy.deepcopy(dict(values))
    for key, value in settings.items():
        *sections, last = key.split(".")
        node = changed
        for section in sections:
            node = node[section]
        node[last] = value
    return changed


def draw_settings(config: Config, choose: Callable[[Sequence[Any]], Any] = secrets.choice) -> dict[str, Any]:
    """One of the candidates, all alike, whatever was drawn before."""
    return {key: choose(values) for key, values in config.sweep.candidates.items()}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration that a trial may draw, its mechanism and its model: on no device, for its shapes."""

    config: Config
    mechanism: Mechanism
    model: nn.Module


def tried(config: Config, values: Mapping[str, Any], splits: Splits, streams: Streams) -> list[Candidate]:
    """Every candidate, model and optimizer made once.

    Raises one ConfigError for all that cannot be run: a trial is to fail by its training alone.
    """
    found, problems = [], {}
    models: dict[str, nn.Module] = {}
    for settings in combinations(config):
        try:
            each = parse(with_settings(values, settings))
            mechanism = assemble(each).mechanism
            if (shape := json.dumps([each.model, each.optimizer, each.mechanism])) not in models:
                model = make_model(each, mechanism, splits, streams)
                build("optimizer", each.optimizer, params=model.parameters())
                models[shape] = model.to("meta")
            found.append(Candidate(config=each, mechanism=mechanism, model=models[shape]))
        except ConfigError as error:
            problems[str(error)] = f"sweep.candidates: with {_shown(settings)}: {error}"
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return found


def _shown(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def plans(candidates: Sequence[Candidate], splits: Splits, epsilon: float | None = None) -> dict[Plan, int]:
    """The plans of these, each once, at this epsilon or their own; and how many numbers of noise in each."""
    found: dict[Plan, int] = {}
    seen: dict[str, Plan] = {}
    for each in candidates:
        shape = json.dumps([each.config.mechanism, asdict(each.config.training)], sort_keys=True)
        if shape not in seen:
            seen[shape] = _plan(each, splits, epsilon)
        plan = seen[shape]
        draws = draws_of(each.mechanism, each.model, splits, plan)
        found[plan] = max(draws, found.get(plan, 0))
    return found


def _plan(candidate: Candidate, splits: Splits, epsilon: float | None) -> Plan:
    """The plan of a candidate; raises ConfigError where none may be selected by its results."""
    config, mechanism = candidate.config, candidate.mechanism
    budget = make_budget(config, splits)
    budget = budget if epsilon is None else replace(budget, epsilon=epsilon)
    plan = mechanism.plan(declare_public(splits, mechanism, make_streams(config)), budget)
    if plan is None:
        raise ConfigError(
            f"mechanism={config.mechanism['_target_']} proves nothing, and so a selection cannot either; "
            "use mechanism=dpsgd"
        )
    if getattr(plan, "measured_outside", False):
        raise ConfigError(
            f"mechanism={config.mechanism['_target_']}: its figures come of the training records, "
            "outside its guarantee, so that nothing may be selected by them; use another mechanism, or "
            "a sweep over a grid"
        )
    return plan


def single_epsilon(
    candidates: Sequence[Candidate], splits: Splits, count: selection.RunCount, delta: float, target: float
) -> float:
    """The epsilon of a single run with which the selection spends `target`, or up to 0.5 % less."""
    epsilon = target / 2.0
    for _ in range(MOST_GUESSES):
        found = plans(candidates, splits, epsilon)
        loss = selection.selected(selection.mixture(found), count)
        spent, _ = selection.stated(loss, count, max(found.values()), delta=delta)
        if 0.995 * target <= spent <= target:
            return epsilon
        epsilon *= 0.998 * target / spent  # what is spent grows about as epsilon does
    raise ConfigError(
        f"sweep.selection_epsilon={target} cannot be reached with {count.mean:g} runs on average; allow "
        "more, or fewer runs"
    )
