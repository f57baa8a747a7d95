"""What processes hold of a training, on disk (torch.distributed.checkpoint), for any number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.optim import Optimizer

from dptrain.privacy.sharded import like

WEIGHT, AVERAGE, STATE = "weights/", "averages/", "optimizer/"


def save(path: Path, model: nn.Module, optimizer: Optimizer, averages: Mapping[str, Tensor]) -> None:
    """Write weights, their averages and the optimizer's tensors; all processes make this call."""
    parameters = dict(model.named_parameters())
    state: dict[str, Tensor] = {WEIGHT + name: each.detach() for name, each in parameters.items()}
    state |= {AVERAGE + name: like(parameters[name], each) for name, each in averages.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{STATE}{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    state_dict_saver.save(state, checkpoint_id=path)


def load(path: Path, model: nn.Module, optimizer: Optimizer, averaged: Sequence[str]) -> dict[str, Tensor]:
    """Take weights and the optimizer's tensors; the averages of these parameters that were kept, by name."""
    parameters = dict(model.named_parameters())
    state: dict[str, Tensor] = {WEIGHT + name: each.detach() for name, each in parameters.items()}
    places: dict[str, tuple[str, str]] = {}
    for key, kept in FileSystemReader(path).read_metadata().state_dict_metadata.items():
        if not isinstance(kept, TensorStorageMetadata) or key.startswith(WEIGHT):
            continue
        name, _, what = (
            key.partition("/")[2].rpartition("/") if key.startswith(STATE) else (key[len(AVERAGE) :], "", "")
        )
        parameter = parameters[name]
        if kept.size == parameter.shape:
            state[key] = torch.zeros_like(parameter.detach(), dtype=kept.properties.dtype)
        else:
            state[key] = torch.zeros(kept.size, dtype=kept.properties.dtype)
        if key.startswith(STATE):
            places[key] = name, what
    state_dict_loader.load(state, checkpoint_id=path)
    optimizer.state.clear()
    for key, (name, what) in places.items():
        optimizer.state[parameters[name]][what] = state[key]
    return {
        name: state[AVERAGE + name].to_local()  # type: ignore[attr-defined]
        for name in averaged
        if AVERAGE + name in state
    }
