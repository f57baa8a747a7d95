"""Files of weights in the forms that people have: what is read of them, and what was taken off the names."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError, DptrainError, Release, Task
from dptrain.models.one_output import OneOutput

USUAL = ("state_dict", "model_state_dict", "model")  # what the weights are called among others
SAVE = "save torch.save(model.state_dict(), PATH), and give that"
COMPILED = "_orig_mod."  # what torch.compile puts before a module's names
COUNTER = "num_batches_tracked"  # of BatchNorm: without a say in what a model answers


def load(
    weights: Path, model: nn.Module, device: torch.device, task: Task | None = None
) -> tuple[Release, str]:
    """The release in a file of weights, and what was done to read it (empty: nothing).

    Raises ConfigError where it does not fit the model. No code in the file is run.
    """
    said = f"release={weights}"
    found, notes = _tensors(_read(weights), said)
    wanted, before = model.state_dict(), _before(model)
    state = {name: value for name, value in wanted.items() if not name.startswith(before)}
    own = {name.removeprefix(before): value for name, value in wanted.items() if name.startswith(before)}
    if any(COMPILED in name for name in found) and not any(COMPILED in name for name in own):
        found = {name.replace(COMPILED, ""): value for name, value in found.items()}
        notes.append(f"`{COMPILED}` was taken off the names")
    needed = {name for name in own if not name.endswith(COUNTER)}
    prefix = _prefix(needed, set(found), said)
    there = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    problems = [
        f"lacks {_some(sorted(needed - there.keys()))}" * bool(needed - there.keys()),
        f"has {_some(sorted(there.keys() - own.keys()))} besides" * bool(there.keys() - own.keys()),
        *(
            f"`{name}` has shape {tuple(there[name].shape)}, the model's {tuple(own[name].shape)}"
            for name in own
            if name in there and there[name].shape != own[name].shape
        ),
        *(
            f"`{name}` is {there[name].dtype}, where the model has {own[name].dtype}"
            for name in own
            if name in there and own[name].is_floating_point() and not there[name].is_floating_point()
        ),
    ]
    if problems := [each for each in problems if each]:
        raise ConfigError(
            f"{said} does not fit the model: {'; '.join(problems[:4])}; choose the model=... that it was "
            "saved from"
        )
    state |= {
        f"{before}{name}": there.get(name, value).detach().to(value.dtype) for name, value in own.items()
    }
    if broken := [name for name, value in state.items() if not bool(torch.isfinite(value).all())]:
        raise DptrainError(f"{said}: `{broken[0]}` is not finite; give weights that are")
    if prefix and prefix != before:
        notes.append(f"`{prefix}` was taken off the names")
    if left := sorted(name for name in found if not name.startswith(prefix)):
        notes.append(f"{_some(left)} left out")
    kinds = {
        str(there[name].dtype).removeprefix("torch.")
        for name in there
        if there[name].dtype != own[name].dtype
    }
    if kinds:
        notes.append(
            f"{', '.join(sorted(kinds))} read as {str(own[min(needed)].dtype).removeprefix('torch.')}"
        )
    release = Release(architecture=partial(copy.deepcopy, model), weights=state, device=device, task=task)
    return release, "; ".join(notes)


def _before(model: nn.Module) -> str:
    """What stands before the names that a user's own network has: normalisation and the like come first."""
    network = getattr(model, "network", None)
    return "network.network." if isinstance(network, OneOutput) else "network."


def _read(path: Path) -> Any:
    """What a file holds; raises ConfigError where it cannot be read without running code."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ConfigError(
                f"release={path} is a file of safetensors, which is not installed; pip install "
                '"dptrain[safetensors]"'
            ) from error
        read: Any = load_file
    else:
        read = partial(torch.load, weights_only=True, map_location="cpu")
        if zipfile.is_zipfile(path) and any(
            name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
        ):
            raise ConfigError(
                f"release={path} is TorchScript, a program that reading would run; load it where you trust "
                f"it, and {SAVE}"
            )
    try:
        return read(path)
    except Exception as error:  # of a foreign file it raises whatever reading it came to
        if unsafe := _unsafe(path):
            raise ConfigError(
                f"release={path} holds more than tensors ({_some(unsafe)}), which reading would run as code; "
                f"load it where you trust it, and {SAVE}"
            ) from error
        raise ConfigError(
            f"release={path} cannot be read as weights ({type(error).__name__}); {SAVE}"
        ) from error


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
            kind = f"a {type(held).__name__} of {_some([str(name) for name in held])}"
        raise ConfigError(f"{said} holds {kind}, and no tensors by name; {SAVE}")
    usual = [key for name in USUAL for key in found if key.rpartition(".")[2] == name]
    key = [*usual, *found][0]
    if len(found) > 1 and not usual:
        raise ConfigError(
            f"{said} holds several sets of weights ({_some(list(found))}); save the one that is meant"
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


def _prefix(needed: set[str], names: set[str], said: str) -> str:
    """What stands before the names of all that is needed, or of most of it."""
    ends = {name[: -len(end)] for end in needed for name in names if name == end or name.endswith(f".{end}")}
    whole = sorted(each for each in ends if all(f"{each}{name}" in names for name in needed))
    if "" in whole or not whole:
        return max(sorted(ends), key=lambda each: sum(f"{each}{n}" in names for n in needed), default="")
    if len(whole) > 1:
        raise ConfigError(
            f"{said} holds several networks that fit ({_some(whole)}); save the one that is meant"
        )
    return whole[0]


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
