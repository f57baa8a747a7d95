"""Arguments of components, held against their signatures: unknown, missing, of another type, out of range."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dptrain.config.rules import shown

OF_HYDRA = ("_target_", "_recursive_", "_convert_", "_args_", "_partial_")
LONGEST = 200  # characters of what a check says
# Types that no text of a configuration has: only the component itself can tell what it takes for one.
BEYOND_TEXT = {"needs_python_object", "is_instance_of", "is_subclass_of", "callable_type", "enum"}


def argument_problems(
    key: str, target: Callable[..., Any], node: Mapping[str, Any], given: Collection[str]
) -> list[str]:
    """What is wrong with the arguments that a node has for its target; the `given` ones come from dptrain.

    Types and ranges are those of the annotations, such as `Annotated[float, Ge(0)]`; numbers are finite.
    """
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # a class of C, which says nothing of its arguments
        return []
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    named = {
        name: each
        for name, each in parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    problems = []
    for name, value in node.items():
        if name in OF_HYDRA:
            continue
        said = f"{key}.{name}={shown(value)}"
        if name in given:
            problems.append(f"{said} is filled in by dptrain itself; leave it out")
        elif name in named:
            default = named[name].default
            if value != default or isinstance(value, bool) != isinstance(default, bool):
                problems += _wrong(f"{key}.{name}", target, name, value)
        elif not open_ended:
            takes = [each for each in named if each not in given]
            cure = did_you_mean(name, takes) or f"it takes {', '.join(takes) or 'none'}"
            problems.append(f"{said}: `{node['_target_']}` has no such argument; {cure}")
    if "_args_" in node or node.get("_partial_"):  # some are given by their place, or later
        return problems
    return problems + [
        f"{key}.{name} is missing: `{node['_target_']}` needs it; add +{key}.{name}=..."
        for name, each in named.items()
        if each.default is each.empty and name not in node and name not in given
    ]


def did_you_mean(word: str, words: Collection[str]) -> str:
    """A question with the most similar of these words; nothing where none is similar.

    >>> did_you_mean("mometum", ["lr", "momentum"]), did_you_mean("x", ["lr"])
    ('did you mean momentum?', '')
    """
    close = get_close_matches(word, list(words), n=1)
    return f"did you mean {close[0]}?" if close else ""


def _wrong(key: str, target: Callable[..., Any], name: str, value: Any) -> list[str]:
    """What the annotation of an argument says against a value, if no other component is made of that."""
    adapter = _adapters(target).get(name)
    if adapter is None or makes(value):
        return []
    try:
        adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        details = [each for each in error.errors() if each["type"] not in BEYOND_TEXT]
    except (TypeError, ValueError):  # no text either: a program handed it over
        return []
    else:
        return []
    return [_problem(key, value, dict(each)) for each in details[:1]]


def makes(value: Any) -> bool:
    """Whether a component is made somewhere in a value."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(makes, value.values()))
    return isinstance(value, list) and any(map(makes, value))


def _problem(key: str, value: Any, detail: dict[str, Any]) -> str:
    for part in detail["loc"]:  # some of which name branches of the type, not places in the value
        if isinstance(value, Mapping) and part in value:
            key, value = f"{key}.{part}", value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            key, value = f"{key}[{part}]", value[part]
    wrong = (
        detail["msg"].removeprefix("Input ").replace("valid array", "list").replace("an object", "a mapping")
    )
    said = "is too short" if detail["type"] == "missing" else wrong[:LONGEST]
    return f"{key}={shown(value)} {said}; correct it"


def _own(target: type) -> Collection[str]:
    """What a class defines itself; a dataclass defines an `__init__` only where it is one by itself."""
    by_decorator = "__dataclass_fields__" in vars(target)
    return () if by_decorator else vars(target).keys()


@lru_cache(maxsize=256)
def _adapters(target: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """Checks by name, of those arguments whose annotations can be read."""
    of: Any = target
    if isinstance(target, type) and not (is_dataclass(target) and "__init__" not in _own(target)):
        of = getattr(target, "__init__")  # noqa: B009
    try:
        hints = get_type_hints(of, include_extras=True)
    except Exception:  # names that a module imports for type checkers only, or none at all
        return {}
    adapters = {}
    for name in hints.keys() & inspect.signature(target).parameters.keys():
        try:
            adapters[name] = TypeAdapter(
                hints[name], config=ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)
            )
        except Exception:  # a type that says nothing to pydantic
            continue
    return adapters
