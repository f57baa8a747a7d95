"""Objects that a program hands over in place of nodes of the configuration: a network, records."""

from __future__ import annotations

import copy
import hashlib
import inspect
import secrets
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dptrain.contracts import ConfigError, Splits
from dptrain.runs.folder import GIVEN


@dataclass(frozen=True, kw_only=True)
class Given:
    """A network with its initial weights, and records; None: as the configuration names them."""

    model: nn.Module | None = None
    splits: Splits | None = None

    def __post_init__(self) -> None:
        if self.model is not None and (
            not isinstance(self.model, nn.Module) or isinstance(self.model, torch.jit.ScriptModule)
        ):
            raise ConfigError(
                f"model={type(self.model).__name__}: give a torch.nn.Module with its initial weights, "
                "such as nn.Linear(64, 3), and no class, function or script"
            )

    def load(self, rng: torch.Generator) -> Splits:  # noqa: ARG002
        """The records, as a data source has them."""
        assert self.splits is not None
        return self.splits

    def network(self) -> nn.Module:
        """A copy of the network: what was handed over is left as it is."""
        return copy.deepcopy(self.model)  # type: ignore[return-value]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What stands in the configuration for these objects: their classes, and which version of them."""
        kept = {"model": self.model, "data": self.splits}
        return {name: _node(each) for name, each in kept.items() if each is not None}


def _node(value: Any) -> dict[str, Any]:
    kind = type(value)
    try:
        code = hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()
    except (OSError, TypeError):  # typed into an interpreter: nobody can tell two versions apart
        code = secrets.token_hex(8)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", "code": code, GIVEN: True}
