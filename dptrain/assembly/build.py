"""Objects from nodes of the configuration that name a class: `_target_` and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dptrain.contracts import ConfigError, DptrainError


def build(key: str, node: dict[str, Any], **arguments: Any) -> Any:
    """The object that a node with `_target_` describes, called with these arguments besides its own.

    Raises ConfigError naming the key where the class cannot be found or does not take its arguments.
    """
    try:
        # Called by us and not by Hydra, which would turn dataclasses among the arguments into dictionaries.
        return factory(key, node)(**arguments)
    except DptrainError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{key}: `{node['_target_']}` cannot be made ({type(error).__name__}: {error}); "
            f"check the arguments beside {key}._target_"
        ) from error


def factory(key: str, node: dict[str, Any]) -> Callable[..., Any]:
    """Like `build`, but waiting for arguments that are not known yet."""
    try:
        made: Callable[..., Any] = instantiate({**node, "_partial_": True}, _convert_="all")
    except InstantiationException as error:
        raise ConfigError(
            f"{key}._target_={node['_target_']} cannot be found "
            f"({str(error.__cause__ or error).splitlines()[0]}); give the full name of an importable class"
        ) from error
    return made
