"""The candidates of a private selection: every combination of declared values, and the plans they come to."""

from __future__ import annotations

import copy
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from dptrain.assembly.build import build
from dptrain.assembly.components import assemble
from dptrain.assembly.model import make_model
from dptrain.assembly.records import declare_public
from dptrain.assembly.values import make_budget, make_streams
from dptrain.config import Config, parse
from dptrain.contracts import ConfigError, Plan, Splits, Streams
from dptrain.privacy import selection

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


def configs(config: Config, values: Mapping[str, Any], splits: Splits, streams: Streams) -> list[Config]:
    """The configuration of every candidate, model and optimizer tried.

    Raises one ConfigError for all that cannot be run: a trial is to fail by its training alone.
    """
    found, problems, tried = [], {}, set()
    for settings in combinations(config):
        try:
            each = parse(with_settings(values, settings))
            mechanism = assemble(each).mechanism
            if (shape := json.dumps([each.model, each.optimizer, each.mechanism])) not in tried:
                tried.add(shape)
                model = make_model(each, mechanism, splits, streams)
                build("optimizer", each.optimizer, params=model.parameters())
            found.append(each)
        except ConfigError as error:
            problems[str(error)] = f"sweep.candidates: with {_shown(settings)}: {error}"
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return found


def _shown(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def plans(configs: Sequence[Config], splits: Splits, epsilon: float | None = None) -> list[Plan]:
    """The plans of these configurations, each once, at this epsilon or their own."""
    found: dict[Plan, None] = {}
    seen = set()
    for config in configs:
        if (shape := json.dumps([config.mechanism, asdict(config.training)], sort_keys=True)) in seen:
            continue
        seen.add(shape)
        budget = make_budget(config, splits)
        budget = budget if epsilon is None else replace(budget, epsilon=epsilon)
        mechanism = assemble(config).mechanism
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
        found[plan] = None
    return list(found)


def single_epsilon(
    configs: Sequence[Config], splits: Splits, count: selection.RunCount, delta: float, target: float
) -> float:
    """The epsilon of a single run with which the selection spends `target`, or up to 0.5 % less."""
    epsilon = target / 2.0
    for _ in range(MOST_GUESSES):
        single = selection.mixture(plans(configs, splits, epsilon))
        spent = selection.selected(single, count).get_epsilon_for_delta(delta)
        if 0.995 * target <= spent <= target:
            return epsilon
        epsilon *= 0.998 * target / spent  # what is spent grows about as epsilon does
    raise ConfigError(
        f"sweep.selection_epsilon={target} cannot be reached with {count.mean:g} runs on average; allow "
        "more, or fewer runs"
    )
