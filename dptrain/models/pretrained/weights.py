"""Weights of a backbone: read from a file, held against their hash, put into the network."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import ConfigError

NESTED = ("state_dict", "model_state_dict", "model")  # under which training scripts save the weights
WRAPPED = "module."  # what DataParallel puts before each name
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # classifiers beside the head, of Inception and GoogLeNet

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose weights a network begins with: of which architecture, trained on what, from which file."""

    name: str
    trained_on: str | None
    sha256: str | None

    def __str__(self) -> str:
        file = "" if self.sha256 is None else f" (SHA-256 {self.sha256})"
        trained = (
            "of which it is not declared what they were trained on"
            if self.trained_on is None
            else f"pre-trained on {self.trained_on}"
        )
        return (
            f"the initial weights of {self.name}{file}, {trained}; that this overlaps with these records, or "
            "shows people of them, is not excluded"
        )


def file_hash(path: Path, expected: str | None) -> str:
    """The SHA-256 of a file of weights; raises ConfigError where it is missing or another was expected."""
    if not path.is_file():
        raise ConfigError(
            f"model.weights={path} is no file; give a file of weights, DEFAULT (which downloads), or null"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.strip().lower():
        raise ConfigError(
            f"model.sha256={expected}, but model.weights={path} has {found}; get the file anew, or correct "
            "the hash"
        )
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a file of `torch.save` or of safetensors; raises ConfigError."""
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ConfigError(
                f'model.weights={path} needs the library safetensors: pip install "dptrain[timm]"'
            ) from error
        read: Any = load_file
    else:

        def read(path: Path) -> Any:
            return torch.load(path, map_location="cpu", weights_only=True)

    try:
        found = read(path)
    except Exception as error:  # of what is no such file, or holds more than tensors
        raise ConfigError(
            f"model.weights={path} cannot be read ({type(error).__name__}); give a state dict, saved by "
            "torch.save(model.state_dict(), ...) or as safetensors"
        ) from error
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ConfigError(f"model.weights={path} holds no tensors by name; give a state dict")
    return {name.removeprefix(WRAPPED): each for name, each in found.items()}


def load(network: nn.Module, weights: Mapping[str, Tensor], *, name: str, head: Collection[str]) -> None:
    """Put weights into a network without its head, whose modules are called `head`; raises ConfigError."""
    own = network.state_dict()
    dropped = [each for each in weights if each.startswith((*(f"{part}." for part in head), *AUXILIARY))]
    dropped = [each for each in dropped if each not in own]
    kept = {each: value for each, value in weights.items() if each not in dropped}
    problems = [
        f"lacks `{each}`" for each in own if each not in kept and not each.endswith("num_batches_tracked")
    ]
    problems += [f"has `{each}`, which {name} has not" for each in kept if each not in own]
    problems += [
        f"has `{each}` of shape {tuple(value.shape)}, where {name} has {tuple(own[each].shape)}"
        for each, value in kept.items()
        if each in own and value.shape != own[each].shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more differences)" if len(problems) > 3 else ""
        raise ConfigError(
            f"model.weights: the file {'; '.join(problems[:3])}{more}; give weights of {name}, as it is "
            "for model.size pixels"
        )
    if dropped:
        log.info("model.weights: %s left out: a fresh head takes its place", ", ".join(dropped))
    network.load_state_dict(kept, strict=False)
