"""A recipe with another mechanism or other attacks than its own: what of it does not apply is left out."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from dptrain.assembly.build import target
from dptrain.assembly.components import unoffered
from dptrain.config import parse
from dptrain.config.rules import shown
from dptrain.contracts import ConfigError


def without_what_does_not_apply(
    values: Mapping[str, Any], asked: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """A configuration as far as the mechanism and attacks asked for go, and a sentence for all left out.

    What was `asked` for, by dotted key, stays, and is refused elsewhere where it cannot be.
    """
    values, said = dict(values), list[str]()
    attacks = values.get("attack")
    if "attack" in asked and isinstance(attacks, Mapping):
        unchosen = {name: each for name, each in attacks.items() if _settings_alone(name, each, asked)}
        values["attack"] = {name: each for name, each in attacks.items() if name not in unchosen}
        for name, each in unchosen.items():
            named = ", ".join(f"attack.{name}.{key}={shown(value)}" for key, value in each.items())
            said.append(f"{named}: of the recipe's own attacks, and not of these")
    node = values.get("mechanism")
    if "mechanism" not in asked or not isinstance(node, Mapping):
        return values, said
    known = _arguments(node)
    foreign = [key for key in node if known and key not in known and f"mechanism.{key}" not in asked]
    if foreign:
        values["mechanism"] = {key: value for key, value in node.items() if key not in foreign}
        named = ", ".join(f"mechanism.{key}={shown(node[key])}" for key in foreign)
        said.append(f"{named}: of the recipe's own mechanism, and not of this one")
    if "attack" not in asked and isinstance(values.get("attack"), Mapping):
        with suppress(ConfigError):  # which is said when the parts are put together
            missing = unoffered(parse(values))
            values["attack"] = {name: each for name, each in values["attack"].items() if name not in missing}
            said += missing.values()
    return values, said


def _settings_alone(name: str, node: Any, asked: Collection[str]) -> bool:
    """Whether this is what a recipe sets for an attack that was not chosen, and nobody asked for it."""
    ours = any(f"{key}.".startswith(f"attack.{name}.") for key in asked)
    return isinstance(node, Mapping) and "_target_" not in node and not ours


def _arguments(node: Mapping[str, Any]) -> set[str]:
    """What a mechanism takes; nothing where that is not known, or all is taken."""
    with suppress(Exception):  # whatever importing it raises is said when the parts are put together
        parameters = inspect.signature(target(node["_target_"])).parameters
        if all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
            return {"_target_", *parameters}
    return set()
