"""Steps without privacy: the same sums, neither clipped nor noised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dptrain.contracts import Inputs, Objective, Regulariser
from dptrain.privacy.clipping import wide
from dptrain.privacy.gradients import RecordLoss


class PlainEngine:
    """Sums gradients over a logical batch and divides by the constant that the private engines divide by."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        expected_batch_size: int,
        *,
        loss: RecordLoss,
        bfloat16: bool = False,
        regularisers: Sequence[Regulariser] = (),
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.expected_batch_size = expected_batch_size
        self.loss = loss
        self.bfloat16 = bfloat16
        self._objective: Objective = self._summed
        for each in regularisers:
            self._objective = each.of_batch(self._objective)

    def accumulate(self, inputs: Inputs, labels: Tensor, copies: int = 1) -> Tensor:
        if len(labels) == 0:
            return torch.zeros((), device=labels.device)
        loss = self._objective(self.model, inputs, labels, self.loss) / copies
        loss.backward()
        return loss.detach()

    def _summed(self, model: nn.Module, inputs: Inputs, labels: Tensor, loss: RecordLoss) -> Tensor:
        with torch.autocast(labels.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            outputs = model(inputs)
        return loss(wide(outputs), labels).sum()

    def accumulate_gradients(self, gradients: list[Tensor]) -> None:
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            added = gradient.sum(0)
            parameter.grad = added if parameter.grad is None else parameter.grad + added

    def total(self) -> Tensor:
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self._trained]
        )

    def sum(self) -> Tensor:
        return self.total()

    def add_sum(self, flat: Tensor) -> None:
        parts = flat.split([parameter.numel() for parameter in self._trained])
        self.accumulate_gradients(
            [part.view(1, *each.shape).to(each) for part, each in zip(parts, self._trained, strict=True)]
        )

    def seal(self) -> None:
        """No noise is added to it."""

    def forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        sums = [parameter.grad for parameter in self._trained]
        self.forget()
        try:
            yield
        finally:
            for parameter, held in zip(self._trained, sums, strict=True):
                parameter.grad = held

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def update(self) -> None:
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= self.expected_batch_size
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def keep_noise(self) -> None:
        """There is none."""

    def noise(self) -> Tensor:
        return torch.cat([torch.zeros_like(parameter).flatten() for parameter in self._trained])
