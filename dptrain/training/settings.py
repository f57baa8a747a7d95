"""How a training goes, whichever mechanism it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from dptrain.privacy.plan import Rates
from dptrain.training.augment import Augmentation


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rates, optimizer and bookkeeping of a training.

    `physical_batch_size` bounds what is held in memory at once, `prefetch` is how many such batches
    are read before they are needed, where records are not in memory; neither changes anything else;
    `average_decay` 0 releases the last weights instead of their moving average. With an `augmentation`
    a record is seen as several random copies. Features of a frozen part are made once where they
    take at most `feature_cache_gib`, and else at every step: the weights are the same. Where twice as much
    fits, they are kept for control and shadow models too.
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

    @property
    def copies(self) -> int:
        """How many inputs the model sees of one record at a step."""
        return 1 if self.augmentation is None else self.augmentation.copies
