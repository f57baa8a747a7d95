"""How a training goes, whichever mechanism it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from dptrain.privacy.plan import Rates


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rates, optimizer and bookkeeping of a training.

    `physical_batch_size` bounds what is held in memory at once and changes nothing else;
    `average_decay` 0 releases the last weights instead of their moving average.
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
