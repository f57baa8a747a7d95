"""Weights that a file holds, in a model: what is read of them, and what was taken off the names."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dptrain.contracts import ConfigError, DptrainError, Release, Task
from dptrain.models.one_output import OneOutput
from dptrain.models.weight_files import read_tensors, some

COMPILED = "_orig_mod."  # what torch.compile puts before a module's names
COUNTER = "num_batches_tracked"  # of BatchNorm: without a say in what a model answers


def load(
    weights: Path, model: nn.Module, device: torch.device, task: Task | None = None
) -> tuple[Release, str]:
    """The release in a file of weights, and what was done to read it (empty: nothing).

    Raises ConfigError where it does not fit the model. No code in the file is run.
    """
    said = f"release={weights}"
    found, notes = read_tensors(weights, said)
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
        f"lacks {some(sorted(needed - there.keys()))}" * bool(needed - there.keys()),
        f"has {some(sorted(there.keys() - own.keys()))} besides" * bool(there.keys() - own.keys()),
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
        notes.append(f"{some(left)} left out")
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


def _prefix(needed: set[str], names: set[str], said: str) -> str:
    """What stands before the names of all that is needed, or of most of it."""
    ends = {name[: -len(end)] for end in needed for name in names if name == end or name.endswith(f".{end}")}
    whole = sorted(each for each in ends if all(f"{each}{name}" in names for name in needed))
    if "" in whole or not whole:
        return max(sorted(ends), key=lambda each: sum(f"{each}{n}" in names for n in needed), default="")
    if len(whole) > 1:
        raise ConfigError(
            f"{said} holds several networks that fit ({some(whole)}); save the one that is meant"
        )
    return whole[0]
