"""Files of weights in the forms that people have: what tensors by name they hold, without running code."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dptrain.contracts import ConfigError

COMPILED = "_orig_mod."  # what torch.compile puts before a module's names
COUNTER = "num_batches_tracked"  # of BatchNorm: without a say in what a model answers
USUAL = ("state_dict", "model_state_dict", "model")  # what the weights are called among others
SAVE = "save torch.save(model.state_dict(), PATH), and give that"


def read_tensors(path: Path, said: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name in a file, at the top or below, and where; raises ConfigError.

    No code in the file is run. `said` is the key and value that named it.
    """
    return _tensors(_read(path, said), said)


def _read(path: Path, said: str) -> Any:
    """What a file holds; raises ConfigError where it cannot be read without running code."""
    try:
        return _reader(path, said)(path)
    except ConfigError:
        raise
    except Exception as error:  # of a foreign file it raises whatever reading it came to
        if unsafe := _unsafe(path):
            raise ConfigError(
                f"{said} holds more than tensors ({some(unsafe)}), which reading would run as code; "
                f"load it where you trust it, and {SAVE}"
            ) from error
        raise ConfigError(f"{said} cannot be read as weights ({type(error).__name__}); {SAVE}") from error


def _reader(path: Path, said: str) -> Callable[[Path], Any]:
    """What reads a file of this form; raises ConfigError where that would run code, or is not installed."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ConfigError(
                f'{said} is a file of safetensors, which is not installed; pip install "dptrain[safetensors]"'
            ) from error
        return load_file
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file_of_several:
            names = file_of_several.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise ConfigError(
                f"{said} is TorchScript, a program that reading would run; load it where you trust "
                f"it, and {SAVE}"
            )
    return partial(torch.load, weights_only=True, map_location="cpu")


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
    by_name = ([key for key in found if key.rpartition(".")[2] == name] for name in USUAL)
    fitting = next(filter(None, by_name), list(found))
    if len(fitting) > 1:
        raise ConfigError(
            f"{said} holds several sets of weights ({some(fitting)}); save the one that is meant"
        )
    (key,) = fitting
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


def under_own_names(
    found: Mapping[str, Tensor], own: Collection[str], said: str, *, usual: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file that stand for a network, under its `own` names, and what was done.

    What torch.compile has put into names, and what stands before them all, is taken off; of a prefix that is
    `usual` nothing is told. Raises ConfigError where several networks in the file fit.
    """
    notes = []
    if any(COMPILED in name for name in found) and not any(COMPILED in name for name in own):
        found = {name.replace(COMPILED, ""): value for name, value in found.items()}
        notes.append(f"`{COMPILED}` was taken off the names")
    prefix = _prefix_of(own, found.keys(), said)
    if prefix not in ("", usual):
        notes.append(f"`{prefix}` was taken off the names")
    if left := sorted(name for name in found if not name.startswith(prefix)):
        notes.append(f"{some(left)} left out")
    return {n.removeprefix(prefix): value for n, value in found.items() if n.startswith(prefix)}, notes


def _prefix_of(own: Collection[str], names: Collection[str], said: str) -> str:
    """What stands in a file before the names of all that a network has, or of most of it.

    Raises ConfigError where several networks in the file fit.
    """
    needed = {name for name in own if not name.endswith(COUNTER)}
    ends = {name[: -len(end)] for end in needed for name in names if name == end or name.endswith(f".{end}")}
    whole = sorted(each for each in ends if all(f"{each}{name}" in names for name in needed))
    if "" in whole or not whole:
        return max(sorted(ends), key=lambda each: sum(f"{each}{n}" in names for n in needed), default="")
    if len(whole) > 1:
        raise ConfigError(
            f"{said} holds several networks that fit ({some(whole)}); save the one that is meant"
        )
    return whole[0]


def misfits(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Why tensors cannot stand for those of the same names that a network has, in words."""
    problems = []
    for name in own.keys() & found.keys():
        value, wanted = found[name], own[name]
        if value.shape != wanted.shape:
            problems.append(f"`{name}` has shape {tuple(value.shape)}, the model's {tuple(wanted.shape)}")
        elif wanted.is_floating_point() and not value.is_floating_point():
            problems.append(f"`{name}` is {value.dtype}, where the model has {wanted.dtype}")
        elif value.layout is not torch.strided:
            problems.append(f"`{name}` is sparse ({value.layout})")
        elif not bool(torch.isfinite(value.to(wanted.dtype)).all()):
            problems.append(f"`{name}` is not finite")
    return sorted(problems)
