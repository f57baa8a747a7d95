"""The model that a service answers with, and what is proved of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dptrain.contracts import Forms, Inputs, Raw


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A released model behind its output limits.

    `answers` takes inputs (N, ...) and gives what is released of predictions, in columns with these `names`
    (none where an answer is no row). `digest` names the weights, and so the counts of queries that are kept.
    Where each answer is paid for, `most` inputs are ever answered, and `left` tells how many other ones.
    """

    title: str
    answers: nn.Module
    names: tuple[str, ...]
    forms: Forms
    raw: Raw | None
    statement: Mapping[str, Any]
    card: str
    digest: str
    output: str  # the interface that is given away, as leakage lines call it
    task: str
    most: int | None = None
    left: Callable[[], int] | None = None

    @property
    def described(self) -> dict[str, Any]:
        """What it takes and what its answers are, as plain values."""
        if isinstance(self.forms, Mapping):
            forms = {name: asdict(each) for name, each in self.forms.items()}
        else:
            forms = asdict(self.forms)
        return {
            "title": self.title,
            "task": self.task,
            "names": list(self.names),
            "output": self.output,
            "inputs": forms,
            "records": None if self.raw is None else self._columns(self.raw),
            "model": self.digest,
        }

    @staticmethod
    def _columns(raw: Raw) -> list[dict[str, Any]]:
        """The columns of raw records, each with a made-up cell where that is short."""
        return [
            {"name": name, "optional": name in raw.optional}
            | ({} if isinstance(cell, list) else {"example": cell})
            for name, cell in raw.example.items()
        ]

    @torch.inference_mode()
    def predict(self, inputs: Inputs) -> Tensor:
        """What is released of the predictions for these inputs, on the CPU."""
        answers: Tensor = self.answers(inputs)
        return answers
