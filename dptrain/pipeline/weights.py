"""Weights that a file holds, in a model: what is read of them, and what was taken off the names."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dptrain.contracts import ConfigError, Release, Task
from dptrain.models.one_output import OneOutput
from dptrain.models.weight_files import COUNTER, misfits, read_tensors, some, under_own_names


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
    there, done = under_own_names(found, own, said, usual=before)
    notes += done
    needed = {name for name in own if not name.endswith(COUNTER)}
    problems = [
        f"lacks {some(sorted(needed - there.keys()))}" * bool(needed - there.keys()),
        f"has {some(sorted(there.keys() - own.keys()))} besides" * bool(there.keys() - own.keys()),
        *misfits(there, own),
    ]
    if problems := [each for each in problems if each]:
        raise ConfigError(
            f"{said} does not fit the model: {'; '.join(problems[:4])}; choose the model=... that it was "
            "saved from"
        )
    state |= {
        f"{before}{name}": there.get(name, value).detach().to(value.dtype) for name, value in own.items()
    }
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
