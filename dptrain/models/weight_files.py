"""Files of weights in the forms that people have: what tensors by name they hold, without running code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import ConfigError

USUAL = ("state_dict", "model_state_dict", "model")  # what the weights are called among others
SAVE = "save torch.save(model.state_dict(), PATH), and give that"


def read_tensors(path: Path, said: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name in a file, at the top or below, and where; raises ConfigError.

    No code in the file is run. `said` is the key and value that named it.
    """
    return _tensors(_read(path, said), said)


def _read(path: Path, said: str) -> Any:
    """What a file holds; raises ConfigError where it cannot be read without running code."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ConfigError(
                f'{said} is a file of safetensors, which is not installed; pip install "dptrain[safetensors]"'
            ) from error
        read: Any = load_file
    else:
        read = partial(torch.load, weights_only=True, map_location="cpu")
        if zipfile.is_zipfile(path) and any(
            name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
        ):
            raise ConfigError(
                f"{said} is TorchScript, a program that reading would run; load it where you trust "
                f"it, and {SAVE}"
            )
    try:
        return read(path)
    except Exception as error:  # of a foreign file it raises whatever reading it came to
        if unsafe := _unsafe(path):
            raise ConfigError(
                f"{said} holds more than tensors ({some(unsafe)}), which reading would run as code; "
                f"load it where you trust it, and {SAVE}"
            ) from error
        raise ConfigError(f"{said} cannot be read as weights ({type(error).__name__}); {SAVE}") from error


def _unsafe(path: Path) -> list[str]:
    """The classes and functions that a pickle would call for."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # of a file that is no pickle
        return []


def _tensors(held: Any, said: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name in what a file holds, at the top or below, and where; raises ConfigError."""
    found = dict(_states(held, ""))
    if not found:
        kind = f"a {type(held).__name__}"
        if isinstance(held, Mapping):
            kind = f"a {type(held).__name__} of {some([str(name) for name in held])}"
        raise ConfigError(f"{said} holds {kind}, and no tensors by name; {SAVE}")
    usual = [key for name in USUAL for key in found if key.rpartition(".")[2] == name]
    key = [*usual, *found][0]
    if len(found) > 1 and not usual:
        raise ConfigError(
            f"{said} holds several sets of weights ({some(list(found))}); save the one that is meant"
        )
    return found[key], [f"`{key}` of the file was read"] if key else []


def _states(held: Any, above: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, and nothing else, by its place."""
    if not isinstance(held, Mapping) or not held:
        return
    names = all(isinstance(name, str) for name in held)
    if names and all(isinstance(value, Tensor) for value in held.values()):
        yield above, dict(held)
        return
    for name, value in held.items():
        yield from _states(value, f"{above}.{name}" if above else str(name))


def some(names: list[str]) -> str:
    """The first of these names, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
