"""Labels that are a little of every class, or, with a negative amount, less than none of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from dptrain.contracts import ConfigError, Task
from dptrain.contracts.regulariser import RecordLoss, Regulariser


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Regulariser):
    """(1 - amount) of the loss of a record's class, and `amount` of the mean of the losses of all classes.

    Of a cross-entropy, label smoothing as Szegedy et al. 2016 have it. A negative amount is what Struppek et
    al. 2024 ("Be careful what you smooth for", ICLR) defend with; the loss has no lower end then.
    """

    amount: Annotated[float, Ge(-1.0), Lt(1.0)] = 0.1

    def of_record(self, loss: RecordLoss, task: Task) -> RecordLoss:
        if not task.of_classes:
            raise ConfigError(
                f"regulariser.label_smoothing: labels of {task.name} are no classes that could be smoothed; "
                "leave it out"
            )
        return partial(self._smoothed, loss, task.outputs[-1])

    def _smoothed(self, loss: RecordLoss, classes: int, outputs: Tensor, labels: Tensor) -> Tensor:
        each = torch.stack([loss(outputs, torch.full_like(labels, label)) for label in range(classes)])
        return (1 - self.amount) * loss(outputs, labels) + self.amount * each.mean(0)
