"""How a training goes, whichever mechanism it is for, and the copies of each record that it may be of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from dptrain.contracts import ConfigError
from dptrain.privacy.plan import Rates


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """`copies` of each image, each shifted by up to `shift` pixels and, with `flip`, perhaps mirrored.

    A record's contribution is the mean over its copies, clipped: its influence is bounded as before, and the
    guarantee is the same (De et al. 2022, "Unlocking high-accuracy differentially private image
    classification through scale", section 3.2: augmentation multiplicity). What a shift moves in from beyond
    the border is the image's reflection. The draws come from PyTorch's default generator, whose state
    is secret while a batch is computed (`masks.py`): which copy is drawn depends on where a record stands.
    """

    copies: int
    shift: int = 0
    flip: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) to (n * copies, C, H, W), the copies of one record side by side."""
        if images.dim() != 4:
            raise ConfigError(
                f"training.augmentations={self.copies} moves images (C, H, W), and these records have shape "
                f"{tuple(images.shape[1:])}; set it to 0"
            )
        copied = images.repeat_interleave(self.copies, dim=0)
        if self.shift > 0:
            copied = _moved(copied, torch.randint(2 * self.shift + 1, (2, len(copied))), self.shift)
        if self.flip:
            mirrored = (torch.rand(len(copied)) < 0.5).view(-1, 1, 1, 1).to(copied.device)
            copied = torch.where(mirrored, copied.flip(-1), copied)
        return copied


def _moved(images: Tensor, offsets: Tensor, margin: int) -> Tensor:
    """The window of each image, padded by `margin`, that starts at its (row, column) of `offsets` (2, n)."""
    rows, columns = (
        (start[:, None] + torch.arange(side)).to(images.device)
        for start, side in zip(offsets, images.shape[-2:], strict=True)
    )
    padded = F.pad(images, [margin] * 4, mode="reflect")
    numbers = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rates, optimizer and bookkeeping of a training.

    `physical_batch_size` bounds what is held in memory at once, `prefetch` is how many such batches
    are read before they are needed, where records are not in memory; neither changes anything else;
    `average_decay` 0 releases the last weights instead of their moving average. With an `augmentation`
    a record is seen as several random copies. Features of a frozen part are made once where they
    take at most `feature_cache_gib`, and else at every step: the weights are the same. Where twice as much
    fits, they are kept for the twin and shadow models too.
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
