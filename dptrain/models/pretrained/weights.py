"""Weights of a backbone: read from a file, held against their hash, put into the network."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dptrain.contracts import ConfigError
from dptrain.models.weight_files import COUNTER, misfits, read_tensors, under_own_names

DEFAULT = "DEFAULT"  # in place of a file of weights: those that the library itself publishes
DIGITS = re.compile(r"-([0-9a-f]{8,64})\.")  # of its SHA-256, in the name of a file that torch.hub knows
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


def refuse_declared(*, sha256: str | None, trained_on: str | None) -> None:
    """Raise ConfigError for what is declared of a file of weights where there is none."""
    declared = {"model.sha256": sha256, "model.trained_on": trained_on}
    if said := [f"{key}={value}" for key, value in declared.items() if value is not None]:
        raise ConfigError(
            f"{', '.join(said)} tells of a file of weights, and model.weights=null has none; give "
            "model.weights=PATH, or leave that out"
        )


def file_hash(path: Path, expected: str | None, *, published: bool = False) -> str:
    """The SHA-256 of a file of weights, that a `published` one's name begins in many cases.

    Raises ConfigError where the file is missing or another was expected.
    """
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
    digits = DIGITS.search(path.name) if published else None
    if digits is not None and not found.startswith(digits[1]):
        raise ConfigError(
            f"model.weights: {path} has the SHA-256 {found}, and is not the published file, whose hash "
            f"begins with {digits[1]}; remove it, or give it as model.weights=PATH"
        )
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a file of `torch.save` or of safetensors; raises ConfigError."""
    found, _ = read_tensors(path, f"model.weights={path}")
    return found


def load(
    network: nn.Module, weights: Mapping[str, Tensor], *, path: Path, name: str, head: Collection[str]
) -> None:
    """Put weights of a file into a network without its head, whose modules are called `head`.

    What stands before all the names is taken off them. Raises ConfigError where the weights do not fit.
    """
    own, said = network.state_dict(), f"model.weights={path}"
    weights, _ = under_own_names(weights, own, said)
    dropped = [each for each in weights if each.startswith((*(f"{part}." for part in head), *AUXILIARY))]
    dropped = [each for each in dropped if each not in own]
    kept = {each: value for each, value in weights.items() if each not in dropped}
    problems = [f"lacks `{each}`" for each in own if each not in kept and not each.endswith(COUNTER)]
    problems += [f"has `{each}`, which {name} has not" for each in kept if each not in own]
    problems += misfits(kept, own)
    if problems:
        more = f" (and {len(problems) - 3} more differences)" if len(problems) > 3 else ""
        raise ConfigError(
            f"{said} does not fit: {'; '.join(problems[:3])}{more}; give weights of {name}, as it is for "
            "model.size pixels"
        )
    if dropped:
        log.info("model.weights: %s left out: a fresh head takes its place", ", ".join(dropped))
    network.load_state_dict(kept, strict=False)
