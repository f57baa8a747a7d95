"""Steps without privacy of a model that is divided among processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dptrain.contracts import Inputs
from dptrain.privacy.sharded import add_reduced, held, like
from dptrain.training.plain import PlainEngine


class ShardedPlain(PlainEngine):
    """One process's part of a training without privacy; all make the same calls."""

    def idle(self, inputs: Inputs, labels: Tensor) -> None:
        """Gather layers with the others for a row that is no record, and add nothing."""
        (0.0 * self.loss(self.model(inputs), labels).sum()).backward()

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        self._add([each.sum(0) for each in gradients])

    def add_nothing(self) -> None:
        """Take part while another process adds gradients."""
        self._add([None] * len(self._trained))

    def shards(self) -> list[Tensor]:
        """What is held of the sum, a part a parameter."""
        return [_local(parameter, parameter.grad) for parameter in self._trained]

    def noise_shards(self) -> list[Tensor]:
        """There is none."""
        return [torch.zeros_like(_local(parameter, None)) for parameter in self._trained]

    def update_shards(self, key: bytes | None) -> None:  # noqa: ARG002
        """Take the step."""
        self.update()

    def _add(self, sums: list[Tensor] | list[None]) -> None:
        for parameter, total in zip(self._trained, sums, strict=True):
            mine = _local(parameter, parameter.grad)
            add_reduced(mine, total, parameter)
            parameter.grad = like(parameter, mine)


def _local(parameter: nn.Parameter, divided: Tensor | None) -> Tensor:
    """The rows held of this gradient of a parameter; zeros where there is none."""
    return torch.zeros_like(held(parameter)) if divided is None else held(divided)
