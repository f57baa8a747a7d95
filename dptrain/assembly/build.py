"""Objects from nodes of the configuration that name a class: `_target_` and its arguments."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dptrain.config.arguments import OF_HYDRA, argument_problems, makes
from dptrain.config.rules import shown
from dptrain.contracts import ConfigError, DptrainError


def build(key: str, node: dict[str, Any], **arguments: Any) -> Any:
    """The object that a node with `_target_` describes, called with these arguments besides its own.

    Raises ConfigError naming the key where the class cannot be found or does not take its arguments.
    """
    make = factory(key, node, given=arguments)
    try:
        # Called by us and not by Hydra, which would turn dataclasses among the arguments into dictionaries.
        return make(**arguments)
    except DptrainError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{_blamed(key, node, make, arguments)}: `{node['_target_']}` cannot be made of it "
            f"({type(error).__name__}: {error}); correct it"
        ) from error


def factory(key: str, node: dict[str, Any], *, given: Collection[str]) -> Callable[..., Any]:
    """Like `build`, but waiting for the arguments that are `given` later."""
    if problems := list(_problems(key, node, given)):
        raise ConfigError("\n".join(problems))
    own = {name: value for name, value in node.items() if name not in OF_HYDRA}
    if "_args_" not in node and not any(map(makes, own.values())):
        return partial(target(node["_target_"]), **own)
    try:
        made: Callable[..., Any] = instantiate({**node, "_partial_": True}, _convert_="all")
    except Exception as error:  # of whatever is made of the arguments
        raise ConfigError(
            f"{key}: the arguments of `{node['_target_']}` cannot be made "
            f"({str(error.__cause__ or error).splitlines()[0]}); correct them"
        ) from error
    return made


def target(name: str) -> Any:
    """What a `_target_` names; raises whatever importing it raises."""
    return instantiate({"_target_": name, "_partial_": True}).func


def _problems(key: str, node: Any, given: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with a node, and with those in it."""
    if isinstance(node, list):
        for place, each in enumerate(node):
            yield from _problems(f"{key}[{place}]", each)
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        yield from _problems(f"{key}.{name}", value)
    if "_target_" not in node:
        return
    try:
        found = target(node["_target_"])
    except Exception as error:  # among them whatever a module of the user's raises
        yield f"{key}._target_={node['_target_']} {_unfound(str(node['_target_']), error)}"
        return
    yield from argument_problems(key, found, node, given)


def _unfound(name: str, error: BaseException) -> str:
    """Why what a `_target_` names cannot be imported, and the cure."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InstantiationException):
        return f"cannot be found ({said}); give the full name of an importable class"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f"{name}.".startswith(f"{missing}."):
        above, _, last = missing.rpartition(".")
        why = f"`{above}` has no `{last}`" if above else f"there is no module `{missing}`"
        return (
            f"cannot be found ({why}); give the full name of an importable class; PYTHONPATH names the "
            "folders of modules of one's own"
        )
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "<frozen" not in each.filename]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    if missing:
        return f"needs the module `{missing}`, which is missing ({said}{place}); install it"
    place = "" if isinstance(error, SyntaxError) else place  # which says where by itself
    return f"cannot be imported ({type(error).__name__}: {said}{place}); correct its module"


def _blamed(key: str, node: dict[str, Any], make: Any, arguments: dict[str, Any]) -> str:
    """The argument without which the object can be made, as key=value; all of them where no single one is."""
    own = {name: value for name, value in node.items() if name not in OF_HYDRA}
    for name, value in own.items():
        others = {each: kept for each, kept in make.keywords.items() if each != name}
        try:
            make.func(*make.args, **others, **arguments)
        except Exception:
            continue
        return f"{key}.{name}={shown(value)}"
    return ", ".join(f"{key}.{name}={shown(value)}" for name, value in own.items()) or key
