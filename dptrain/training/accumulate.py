"""What the records of a physical batch add to a step's sum, as they are or in random copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dptrain.contracts import Records
from dptrain.privacy.dpsgd import Engine
from dptrain.training.augment import Augmentation
from dptrain.training.observe import Shares


def add_up(
    engine: Engine,
    batch: Records,
    augment: Augmentation | None,
    *,
    watched: Sequence[int] = (),
    shares: Shares | None = None,
) -> Tensor:
    """Add these records to the engine's sum; their summed loss.

    Random copies are seen once: what a record that is `watched` (its index, -1 for all others) added is read
    off the sum, as the engine made it, and goes into the `shares`.
    """
    inputs, labels = batch.inputs, batch.labels
    if augment is None:
        return engine.accumulate(inputs, labels)
    copies = augment(inputs).unflatten(0, (len(labels), augment.copies))
    apart = torch.tensor([index >= 0 for index in watched] or [False] * len(labels), device=labels.device)
    loss = engine.accumulate(
        copies[~apart].flatten(0, 1), labels[~apart].repeat_interleave(augment.copies, 0), augment.copies
    )
    for row in apart.nonzero().flatten().tolist():
        assert shares is not None, "what is watched is kept"
        before = engine.total()
        loss = loss + engine.accumulate(copies[row], labels[[row] * augment.copies], augment.copies)
        shares.planted[watched[row]] = engine.total() - before
    return loss
