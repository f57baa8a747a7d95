"""The network that `model` names: whatever a class or a function makes of what it takes."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import nn

from dptrain.assembly.build import build, factory, target
from dptrain.contracts import ConfigError
from dptrain.models.one_output import OneOutput

OF_A_MODEL = ("shape", "num_classes")  # which the data tell
OUTPUT = "_output_"  # in a node: the name or the place of the output that counts, where there are several


def check_network(node: dict[str, Any]) -> None:
    """Raise ConfigError where a node names no network that could be made; `make_network` makes it."""
    chosen = node.get(OUTPUT)
    if not isinstance(chosen, str | int | None) or isinstance(chosen, bool):
        raise ConfigError(f"model.{OUTPUT}={chosen} must be the name of an output, or its place: 0, 1, ...")
    factory("model", _own(node), given=[name for name in OF_A_MODEL if name not in node])


def make_network(node: dict[str, Any], *, seed: int, **known: Any) -> nn.Module:
    """The network of a node, its initial weights drawn from the seed.

    Of what is `known` it is given what its signature names and the node does not. What it would pass on
    by **kwargs is tried, and left out where it is refused.
    """
    named, passes_on = _takes(node)
    arguments = {
        name: value for name, value in known.items() if name not in node and (name in named or passes_on)
    }
    while True:
        torch.manual_seed(seed)
        try:
            made = build("model", _own(node), **arguments)
            break
        except ConfigError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error.__cause__))
            if refused is None or refused[1] not in arguments.keys() - named:
                raise
            del arguments[refused[1]]
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"model._target_={node['_target_']} makes no network but `{type(made).__name__}`; name a class "
            "or a function that makes a torch.nn.Module"
        )
    chosen = node.get(OUTPUT)
    return made if chosen is None else OneOutput(made, chosen)


def _own(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != OUTPUT}


def _takes(node: dict[str, Any]) -> tuple[set[str], bool]:
    """The arguments that what a node names can be given by name, and whether it may pass on others."""
    try:
        parameters = inspect.signature(target(node["_target_"])).parameters.values()
    except (TypeError, ValueError):  # a class of C, which says nothing of its arguments
        return set(), True
    by_name = {
        each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    return by_name, any(each.kind is each.VAR_KEYWORD for each in parameters)
