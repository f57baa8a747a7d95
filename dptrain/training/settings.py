"""How a training goes, whichever mechanism it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from dptrain.contracts import ConfigError, RecordLoss, Regulariser, Splits
from dptrain.privacy.plan import Rates
from dptrain.tasks import task_of
from dptrain.training.augment import Augmentation

MANY = 1000  # steps of a trial, of which only the first few are taken
EarlyStopping = Literal["none", "loss", "metric"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rates, optimizer and bookkeeping of a training.

    `physical_batch_size` bounds what is held in memory at once, `prefetch` is how many such batches
    are read before they are needed, where records are not in memory; neither changes anything else;
    `average_decay` 0 releases the last weights instead of their moving average. With an `augmentation`
    a record is seen as several random copies. Features of a frozen part are made once where they
    take at most `feature_cache_gib`, and else at every step: the weights are the same. Where twice as much
    fits, they are kept for control and shadow models too. With `early_stopping` the weights of that
    evaluation are released whose loss, or metric, on held-out records is best. The loss is changed by
    `regularisers`, by name.
    """

    rates: Rates
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    physical_batch_size: int
    schedule: str
    warmup_steps: int
    average_decay: float
    evaluations: int
    checkpoint_seconds: float
    diagnostics: bool
    augmentation: Augmentation | None = None
    feature_cache_gib: float = 0.0
    prefetch: int = 0
    early_stopping: EarlyStopping = "none"
    regularisers: Mapping[str, Regulariser] = field(default_factory=dict)

    @property
    def copies(self) -> int:
        """How many inputs the model sees of one record at a step."""
        return 1 if self.augmentation is None else self.augmentation.copies

    @property
    def outside(self) -> tuple[str, ...]:
        """What of the records decides on the release beside a training's steps, one sentence each."""
        if self.early_stopping == "none":
            return ()
        return (
            f"training.early_stopping={self.early_stopping}: held-out records chose which of "
            f"{self.evaluations} states of the weights is released. They are of people too, and nothing "
            "protects them.",
        )

    def loss(self, splits: Splits) -> RecordLoss:
        """The loss of each record, as regularisers have it; raises ConfigError where labels forbid it."""
        task = task_of(splits)
        loss: RecordLoss = task.loss
        for each in self.regularisers.values():
            loss = each.of_record(loss, task)
        return loss

    def refuse_mixing(self, mechanism: str) -> None:
        """Raise ConfigError where a regulariser mixes records, which a private mechanism must not."""
        mixing = [name for name, each in self.regularisers.items() if each.mixes_records]
        if mixing:
            raise ConfigError(
                f"regulariser={', '.join(mixing)} mixes records of a batch: one record would change what "
                f"others add to the sum, and clipping would not bound it; leave it out of "
                f"mechanism={mechanism}, or set mechanism=non_private"
            )

    def refuse_regularisers(self, mechanism: str) -> None:
        """Raise ConfigError where there are regularisers, for a mechanism that has a loss of its own."""
        if self.regularisers:
            raise ConfigError(
                f"regulariser={', '.join(self.regularisers)}: {mechanism} takes no steps on a loss that "
                "could be changed; leave it out, or set mechanism=dpsgd or mechanism=non_private"
            )
