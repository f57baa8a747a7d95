"""What changes the quantity that a training makes small."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dptrain.contracts.task import Task
from dptrain.contracts.trees import Inputs

RecordLoss = Callable[[Tensor, Tensor], Tensor]  # of outputs (n, ...) and labels (n, ...): one a record (n,)
# Of a model, inputs, labels and the loss of a record: what a batch adds up to, ().
Objective = Callable[[nn.Module, Inputs, Tensor, RecordLoss], Tensor]


class Regulariser:
    """Changes the loss of each record by itself, or what a batch of them adds up to.

    Frozen, and told by its node of the configuration in the keys of caches. What `of_record` makes is trained
    on by DP-SGD as well; whatever has an `of_batch` of its own mixes records, and only trainings without
    privacy can use it. Both must be picklable, for other processes may compute with them.
    """

    @property
    def mixes_records(self) -> bool:
        """Whether the gradient of one record depends on others of its batch."""
        return type(self).of_batch is not Regulariser.of_batch

    def of_record(self, loss: RecordLoss, task: Task) -> RecordLoss:  # noqa: ARG002
        """The loss of each record, of which no other record has a share; raises ConfigError."""
        return loss

    def of_batch(self, objective: Objective) -> Objective:
        """What a physical batch of records adds up to, from what it would add up to otherwise."""
        return objective
